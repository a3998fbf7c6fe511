{#- Instants are UTC on every warehouse; a session's zone never decides. -#}

{% macro instant(text) -%}
  cast('{{ text }}' as {{ type_instant() }})
{%- endmacro %}

{% macro type_instant() -%}
  {{ return(adapter.dispatch('type_instant', 'feedloop')()) }}
{%- endmacro %}

{% macro default__type_instant() -%}timestamptz{%- endmacro %}

{% macro spark__type_instant() -%}timestamp{%- endmacro %}

{#- Seconds from one instant to a later one, as a double. -#}
{% macro seconds_between(earlier, later) -%}
  {{ return(
      adapter.dispatch('seconds_between', 'feedloop')(earlier, later)
  ) }}
{%- endmacro %}

{% macro default__seconds_between(earlier, later) -%}
  (cast(epoch_us({{ later }}) - epoch_us({{ earlier }}) as double) / 1000000)
{%- endmacro %}

{% macro spark__seconds_between(earlier, later) -%}
  (cast(unix_micros({{ later }}) - unix_micros({{ earlier }}) as double) / 1000000)
{%- endmacro %}

{#- A whole number of days or hours away from an instant or a date. -#}
{% macro days_before(moment, days) -%}
  ({{ moment }} - interval '1' day * {{ days }})
{%- endmacro %}

{% macro hours_after(moment, hours) -%}
  ({{ moment }} + interval '1' hour * {{ hours }})
{%- endmacro %}

{#- The instant at which a UTC day is over. -#}
{% macro end_of_day(day) -%}
  cast({{ day }} + interval '1' day as {{ type_instant() }})
{%- endmacro %}

{% macro date_minus(day, days) -%}
  cast({{ day }} - interval '1' day * {{ days }} as date)
{%- endmacro %}
