{#- Arrays: the two warehouses differ in base, order and names. -#}

{#- The values of the rows where `only` holds, ascending by `order_by`, at most
    `most` of them; null where there is none. -#}
{% macro array_ordered(value, order_by, most, only='true') -%}
  {{ return(
      adapter.dispatch('array_ordered', 'feedloop')(value, order_by, most, only)
  ) }}
{%- endmacro %}

{% macro default__array_ordered(value, order_by, most, only) -%}
  array_slice(
    array_agg({{ value }} order by {{ order_by }}) filter (where {{ only }}),
    1,
    {{ most }}
  )
{%- endmacro %}

{% macro spark__array_ordered(value, order_by, most, only) -%}
  slice(
    transform(
      array_sort(
        collect_list(struct({{ order_by }} as place, {{ value }} as value))
        filter (where {{ only }})
      ),
      pair -> pair.value
    ),
    1,
    {{ most }}
  )
{%- endmacro %}

{#- Columns of a group as arrays named column_array, of which the elements at one
    place are of one row: aggregates of one query see its rows in one order. -#}
{% macro array_together(columns) -%}
  {%- for column in columns -%}
    {{ _array_of_group(column) }} as {{ column }}_array{{ ', ' if not loop.last }}
  {%- endfor -%}
{%- endmacro %}

{% macro _array_of_group(column) -%}
  {{ return(adapter.dispatch('_array_of_group', 'feedloop')(column)) }}
{%- endmacro %}

{% macro default___array_of_group(column) -%}
  array_agg({{ column }})
{%- endmacro %}

{% macro spark___array_of_group(column) -%}
  collect_list({{ column }})
{%- endmacro %}

{#- For each element of an array the number that stands in `values` where `of` has
    the element, 0 where it has not, divided. -#}
{% macro array_for_each(array, of, values, divided_by) -%}
  {{ return(
      adapter.dispatch('array_for_each', 'feedloop')(array, of, values, divided_by)
  ) }}
{%- endmacro %}

{% macro default__array_for_each(array, of, values, divided_by) -%}
  list_transform(
    {{ array }},
    one -> coalesce(list_extract({{ values }}, list_position({{ of }}, one)), 0)
      / {{ divided_by }}
  )
{%- endmacro %}

{% macro spark__array_for_each(array, of, values, divided_by) -%}
  transform(
    {{ array }},
    one -> coalesce(
      try_element_at(
        {{ values }}, cast(nullif(array_position({{ of }}, one), 0) as int)
      ),
      0
    ) / {{ divided_by }}
  )
{%- endmacro %}

{#- The place of a value in an array from 1 on, 0 where it isn't there. -#}
{% macro array_place(array, value) -%}
  {{ return(adapter.dispatch('array_place', 'feedloop')(array, value)) }}
{%- endmacro %}

{% macro default__array_place(array, value) -%}
  coalesce(list_position({{ array }}, {{ value }}), 0)
{%- endmacro %}

{% macro spark__array_place(array, value) -%}
  coalesce(array_position({{ array }}, {{ value }}), 0)
{%- endmacro %}

{#- The value at a place from 1 on, null where there is none. -#}
{% macro array_at(array, place) -%}
  {{ return(adapter.dispatch('array_at', 'feedloop')(array, place)) }}
{%- endmacro %}

{% macro default__array_at(array, place) -%}
  list_extract({{ array }}, {{ place }})
{%- endmacro %}

{% macro spark__array_at(array, place) -%}
  try_element_at({{ array }}, cast({{ place }} as int))
{%- endmacro %}

{#- `length` values from a place (from 1) on. -#}
{% macro array_part(array, place, length) -%}
  {{ return(adapter.dispatch('array_part', 'feedloop')(array, place, length)) }}
{%- endmacro %}

{% macro default__array_part(array, place, length) -%}
  array_slice({{ array }}, {{ place }}, {{ place }} + {{ length }} - 1)
{%- endmacro %}

{% macro spark__array_part(array, place, length) -%}
  slice({{ array }}, cast({{ place }} as int), cast({{ length }} as int))
{%- endmacro %}

{% macro array_length(array) -%}
  {{ return(adapter.dispatch('array_length', 'feedloop')(array)) }}
{%- endmacro %}

{% macro default__array_length(array) -%}len({{ array }}){%- endmacro %}

{% macro spark__array_length(array) -%}size({{ array }}){%- endmacro %}

{% macro type_float_array() -%}
  {{ return(adapter.dispatch('type_float_array', 'feedloop')()) }}
{%- endmacro %}

{% macro default__type_float_array() -%}float[]{%- endmacro %}

{% macro spark__type_float_array() -%}array<float>{%- endmacro %}

{% macro array_distinct(array) -%}
  {{ return(adapter.dispatch('array_distinct', 'feedloop')(array)) }}
{%- endmacro %}

{% macro default__array_distinct(array) -%}list_distinct({{ array }}){%- endmacro %}

{% macro spark__array_distinct(array) -%}
  array_distinct({{ array }})
{%- endmacro %}

{#- A join that gives every element of `array` a row, as `name`. -#}
{% macro explode(array, alias, name) -%}
  {{ return(adapter.dispatch('explode', 'feedloop')(array, alias, name)) }}
{%- endmacro %}

{% macro default__explode(array, alias, name) -%}
  cross join lateral (select unnest({{ array }}) as {{ name }}) as {{ alias }}
{%- endmacro %}

{% macro spark__explode(array, alias, name) -%}
  {#- `lateral view` can't stand before a join -#}
  cross join lateral explode({{ array }}) as {{ alias }}({{ name }})
{%- endmacro %}

{#- As `explode`, with the element's ascending place. -#}
{% macro explode_with_place(array, alias, place, name) -%}
  {{ return(
      adapter.dispatch('explode_with_place', 'feedloop')(array, alias, place, name)
  ) }}
{%- endmacro %}

{% macro default__explode_with_place(array, alias, place, name) -%}
  cross join lateral (
    select
      unnest({{ array }}) as {{ name }},
      generate_subscripts({{ array }}, 1) as {{ place }}
  ) as {{ alias }}
{%- endmacro %}

{% macro spark__explode_with_place(array, alias, place, name) -%}
  cross join lateral posexplode({{ array }}) as {{ alias }}({{ place }}, {{ name }})
{%- endmacro %}

{#- Columns as an array of floats, names as an array of strings. -#}
{% macro array_of_floats(columns) -%}
  cast({{ _array_of(columns) }} as {{ type_float_array() }})
{%- endmacro %}

{% macro array_of_strings(names) -%}
  {%- set quoted = [] -%}
  {%- for name in names -%}
    {%- do quoted.append("'" ~ name ~ "'") -%}
  {%- endfor -%}
  {{ _array_of(quoted) }}
{%- endmacro %}

{% macro _array_of(elements) -%}
  {{ return(adapter.dispatch('_array_of', 'feedloop')(elements)) }}
{%- endmacro %}

{% macro default___array_of(elements) -%}[{{ elements | join(', ') }}]{%- endmacro %}

{% macro spark___array_of(elements) -%}array({{ elements | join(', ') }}){%- endmacro %}
