{#- Contracts name types as other warehouses do (varchar, timestamptz,
    double[]); Spark has the same types under names of its own. -#}
{% macro sparkpy__cast(field, type) -%}
  cast({{ field }} as {{ sparkpy_type(type) }})
{%- endmacro %}

{% macro sparkpy_type(type) -%}
  {%- set name = type | trim | lower -%}
  {%- set names = {
      'varchar': 'string',
      'text': 'string',
      'timestamptz': 'timestamp',
      'timestamp with time zone': 'timestamp',
  } -%}
  {%- if name.endswith('[]') -%}
    array<{{ sparkpy_type(name[:-2]) }}>
  {%- else -%}
    {{ names.get(name, type) }}
  {%- endif -%}
{%- endmacro %}
