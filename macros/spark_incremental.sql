{#- Named like dbt-spark's macros, which a root project's go before.
    dbt-spark knows four incremental strategies. Here any strategy works that the
    project has a macro for, as on other adapters, and `delete+insert` is a merge
    on its key: one Iceberg commit where two would show readers a gap. -#}

{% macro dbt_spark_validate_get_incremental_strategy(raw_strategy, file_format) -%}
  {%- set known = ['append', 'merge', 'insert_overwrite', 'microbatch'] -%}
  {%- if raw_strategy == 'delete+insert' -%}
    {{ return('merge') }}
  {%- elif raw_strategy in known or _own_strategy(raw_strategy) -%}
    {{ return(raw_strategy) }}
  {%- endif -%}
  {{ exceptions.raise_compiler_error(
      "Incremental strategy '" ~ raw_strategy ~ "' is none of delete+insert, "
      ~ known | join(', ') ~ ", and the project has no macro get_incremental_"
      ~ raw_strategy ~ "_sql."
  ) }}
{%- endmacro %}

{% macro dbt_spark_get_incremental_sql(
    strategy, source, target, existing, unique_key, incremental_predicates
) -%}
  {%- set own = _own_strategy(strategy) -%}
  {%- if strategy == 'merge' -%}
    {{ get_merge_sql(target, source, unique_key, none, incremental_predicates) }}
  {%- elif strategy == 'append' -%}
    {{ get_insert_into_sql(source, target) }}
  {%- elif own -%}
    {{ own({
        'target_relation': target,
        'temp_relation': source,
        'unique_key': unique_key,
        'dest_columns': adapter.get_columns_in_relation(target),
        'incremental_predicates': incremental_predicates,
    }) }}
  {%- else -%}
    {{ get_insert_overwrite_sql(source, target, existing) }}
  {%- endif -%}
{%- endmacro %}

{#- The project's macro for a strategy of its own, or nothing. -#}
{% macro _own_strategy(strategy) -%}
  {{ return(context.get('get_incremental_' ~ strategy ~ '_sql')) }}
{%- endmacro %}
