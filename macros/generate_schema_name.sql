{% macro generate_schema_name(custom_schema_name, node) -%}
  {#- A past as_of gets a schema of its own, so that two of them can't mix. -#}
  {%- if target.name == 'past' -%}
    {{ target.schema }}_{{ var('as_of') | replace('-', '') | replace(':', '')
      | replace(' ', 't') | replace('+', 'p') | replace('.', 'f') }}
  {%- else -%}
    {{ target.schema }}
  {%- endif -%}
{%- endmacro %}
