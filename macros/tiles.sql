{#- The measures of a tile, each defined once: the daily tiles and the as_of's
    own, unfinished day sum the same expressions. Integers only; division comes
    last, in the features. `events` are rows of stg_events. -#}

{% macro user_measures() -%}
  cast(count(*) as bigint) as events,
  cast(
    count(*) filter (where role in ('engagement', 'conversion')) as bigint
  ) as engagements,
  cast(count(*) filter (where role = 'exposure') as bigint) as impressions,
  cast(
    count(*) filter (where is_label and page_position is not null) as bigint
  ) as responses,
  cast(coalesce(sum(dwell_time_ms), 0) as bigint) as dwell_ms,
  cast(count(dwell_time_ms) as bigint) as dwells
{%- endmacro %}

{% macro item_measures() -%}
  cast(
    count(*) filter (where role in ('engagement', 'conversion')) as bigint
  ) as engagements,
  cast(
    coalesce(
      sum(weight) filter (where role in ('engagement', 'conversion')), 0
    ) as bigint
  ) as popularity,
  cast(count(*) filter (where role = 'exposure') as bigint) as impressions,
  cast(
    count(*) filter (where is_label and page_position is not null) as bigint
  ) as responses
{%- endmacro %}

{% macro affinity_measures() -%}
  cast(
    coalesce(
      sum(weight) filter (where role in ('engagement', 'conversion')), 0
    ) as bigint
  ) as engagement_weight
{%- endmacro %}

{#- Every instant of int_as_of with the days that its windows sum: the whole
    days before its date from the tile, then its own day up to the instant.
    `keys` are the tile's columns besides the day, `measures` the macro above,
    `join_events` a further join that the keys need. -#}
{% macro days_up_to_as_of(tile, keys, measures, columns, join_events='') -%}
  select
    instants.purpose,
    instants.as_of,
    instants.as_of_date,
    tile.day,
    {% for key in keys %}tile.{{ key }}, {% endfor %}
    {% for column in columns %}tile.{{ column }}{{ ', ' if not loop.last }}{% endfor %}
  from {{ ref('int_as_of') }} as instants
  inner join {{ tile }} as tile
    on
      tile.day < instants.as_of_date
      and tile.day >= {{ date_minus('instants.as_of_date', 30) }}
  union all
  select
    instants.purpose,
    instants.as_of,
    instants.as_of_date,
    events.occurred_on as day,
    {% for key in keys %}{{ key }}, {% endfor %}
    {{ measures }}
  from {{ ref('int_as_of') }} as instants
  inner join {{ ref('stg_events') }} as events
    on
      events.occurred_on = instants.as_of_date
      and events.occurred_at <= instants.as_of
  {{ join_events }}
  group by
    instants.purpose, instants.as_of, instants.as_of_date, events.occurred_on
    {%- for key in keys %}, {{ key }}{% endfor %}
{%- endmacro %}
