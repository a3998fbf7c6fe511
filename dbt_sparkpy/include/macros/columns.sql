{#- dbt-spark answers with the raw rows of DESCRIBE, in which a snapshot with
    `hard_deletes: new_record` finds no source column. -#}
{% macro sparkpy__get_columns_in_relation(relation) -%}
  {{ return(adapter.get_columns_in_relation(relation)) }}
{%- endmacro %}
