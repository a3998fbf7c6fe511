{#- Sentences instead of a stack of errors, before anything is built. -#}

{% macro refuse_without_data() -%}
  {#- Without the raw tables every model would fail with a parser's words. -#}
  {%- if execute -%}
    {%- set events = source('raw', 'events') -%}
    {%- set found = adapter.get_relation(
        database=events.database,
        schema=events.schema,
        identifier=events.identifier,
    ) -%}
    {%- if found is none -%}
      {{ exceptions.raise_compiler_error(
          "There is nothing to build on yet: " ~ events ~ " doesn't exist. Bring"
          ~ " data with `feedloop import movielens-100k`, with `feedloop import"
          ~ " FILE --dry-run` for your own, or see the whole loop with"
          ~ " `make demo`."
      ) }}
    {%- endif -%}
  {%- endif -%}
{%- endmacro %}

{% macro refuse_to_go_back() -%}
  {#- Snapshots and tiles know only forwards; the past has its own schema. -#}
  {%- if execute and var('as_of') and target.name != 'past' -%}
    {%- set last_run = adapter.get_relation(
        database=target.database, schema=target.schema, identifier='int_as_of'
    ) -%}
    {%- if last_run is not none -%}
      {%- set newest = run_query(
          "select max(as_of) > " ~ instant(var('as_of')) ~ ", max(as_of) from "
          ~ last_run
      ).rows[0] -%}
      {%- if newest[0] -%}
        {{ exceptions.raise_compiler_error(
            "as_of " ~ var('as_of') ~ " lies before the last run in schema "
            ~ target.schema ~ " (" ~ newest[1] ~ "). Run the past in a schema of"
            ~ " its own: `dbt build --target past --vars 'as_of: ...'`."
        ) }}
      {%- endif -%}
    {%- endif -%}
  {%- endif -%}
{%- endmacro %}
