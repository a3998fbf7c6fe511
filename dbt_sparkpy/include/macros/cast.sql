{#- Contracts name types as other warehouses do (varchar, timestamptz,
    double[]); Spark has the same types under names of its own. -#}
{% macro sparkpy__cast(field, type) -%}
  cast({{ field }} as {{ sparkpy_type(type) }})
{%- endmacro %}

{#- The cast of a unit test's fixture. What YAML has as a list arrives as
    Python's, whose text Spark can't read. -#}
{% macro sparkpy__safe_cast(field, type) -%}
  {%- set is_list = field is sequence and field is not string -%}
  {{ dbt.spark__safe_cast(_sparkpy_array(field) if is_list else field, type) }}
{%- endmacro %}

{% macro _sparkpy_array(values) -%}
  {%- set elements = [] -%}
  {%- for value in values -%}
    {%- set is_text = value is string -%}
    {%- do elements.append(
        dbt.string_literal(dbt.escape_single_quotes(value)) if is_text else value
    ) -%}
  {%- endfor -%}
  array({{ elements | join(', ') }})
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
