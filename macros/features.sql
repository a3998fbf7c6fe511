{#- Arithmetic that features share. -#}

{#- Whether a day lies in the last `days` whole days before the as_of's date or
    on that date itself. -#}
{% macro within(days) -%}
  day >= {{ date_minus('as_of_date', days) }}
{%- endmacro %}

{#- Successes over trials of all rows, 0 where there was no trial. -#}
{% macro mean_rate(successes, trials) -%}
  coalesce(
    cast(sum({{ successes }}) as double) / nullif(sum({{ trials }}), 0), 0
  )
{%- endmacro %}

{#- A rate pulled towards `prior` by ctr_prior_impressions trials. -#}
{% macro smoothed_rate(successes, trials, prior) -%}
  (
    (cast({{ successes }} as double) + {{ var('ctr_prior_impressions') }} * {{ prior }})
    / (cast({{ trials }} as double) + {{ var('ctr_prior_impressions') }})
  )
{%- endmacro %}

{#- A feature's default, from its row in the registry. -#}
{% macro feature_default(name) -%}
  (
    select default_value from {{ ref('feature_registry') }}
    where feature_name = '{{ name }}'
  )
{%- endmacro %}

{#- A weight, halved for every half-life between two instants, in millionths:
    whole numbers, so that the order in which a parallel sum adds them can't
    change the result. -#}
{% macro decayed_millionths(weight, occurred_at, as_of, half_life_seconds) -%}
  {{ halved(weight ~ ' * 1000000', occurred_at, as_of, half_life_seconds) }}
{%- endmacro %}

{#- Millionths that stand at one instant, halved for every half-life up to
    another; where that one comes first, doubled back. Rounded by floor, since a
    cast rounds on one warehouse and cuts on the other. -#}
{% macro halved(millionths, at, as_of, half_life_seconds) -%}
  cast(
    floor(
      {{ millionths }} * power(
        cast(0.5 as double),
        {{ seconds_between(at, as_of) }} / ({{ half_life_seconds }})
      ) + 0.5
    ) as bigint
  )
{%- endmacro %}
