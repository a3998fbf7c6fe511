{#- The incremental strategy of daily tiles: exactly the days that changed since
    the tile was last built are replaced, in one transaction; a day that has
    become empty loses its rows, which delete+insert would leave behind. -#}
{% macro get_incremental_replace_days_sql(args) -%}
  {{ return(
      adapter.dispatch('get_incremental_replace_days_sql', 'feedloop')(args)
  ) }}
{%- endmacro %}

{% macro default__get_incremental_replace_days_sql(args) -%}
  {%- set columns = args['dest_columns'] | map(attribute='quoted') | join(', ') -%}
  delete from {{ args['target_relation'] }}
  where day in (
    select day from {{ ref('int_days_to_rebuild') }}
    where changed_seq > (
      select coalesce(max(changed_seq), -1) from {{ args['target_relation'] }}
    )
  );
  insert into {{ args['target_relation'] }} ({{ columns }})
  select {{ columns }} from {{ args['temp_relation'] }}
{%- endmacro %}

{#- One Iceberg commit: what no new row matches is deleted where its day is
    rebuilt, and none matches. -#}
{% macro spark__get_incremental_replace_days_sql(args) -%}
  {%- set columns = args['dest_columns'] | map(attribute='quoted') | join(', ') -%}
  {%- set days = run_query(
      "select day from " ~ ref('int_days_to_rebuild') ~ " where changed_seq > ("
      ~ "select coalesce(max(changed_seq), -1) from " ~ args['target_relation']
      ~ ")"
  ).columns[0].values() -%}
  merge into {{ args['target_relation'] }} as tile
  using (select {{ columns }} from {{ args['temp_relation'] }}) as rebuilt
  on false
  when not matched then insert *
  {%- if days %}
  when not matched by source and tile.day in (
    {%- for day in days %}date '{{ day }}'{{ ', ' if not loop.last }}{% endfor -%}
  ) then delete
  {%- endif %}
{%- endmacro %}

{#- The days a tile has to build in this run, as a join on `day`. -#}
{% macro days_to_rebuild() -%}
  select
    day,
    changed_seq
  from {{ ref('int_days_to_rebuild') }}
  {%- if is_incremental() %}
  where changed_seq > (select coalesce(max(changed_seq), -1) from {{ this }})
  {%- endif %}
{%- endmacro %}
