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
  cast(count(dwell_time_ms) as bigint) as dwells,
  cast(count(distinct session_id) as bigint) as sessions,
  max(occurred_at) filter (where role in ('engagement', 'conversion'))
    as last_engaged_at
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

{#- `events` are engagements and conversions. -#}
{% macro affinity_measures() -%}
  cast(sum(weight) as bigint) as engagement_weight
{%- endmacro %}

{#- Of one person, item and half-life. Decayed to the day's end, so that days add
    up after each has been halved once more up to the instant. `events` are
    engagements and conversions. -#}
{% macro interaction_measures() -%}
  cast(count(*) as bigint) as engagements,
  max(occurred_at) as last_engaged_at,
  cast(
    sum({{ decayed_millionths(
        'weight',
        'occurred_at',
        end_of_day('occurred_on'),
        'half_life_days * 86400',
    ) }}) as bigint
  ) as millionths
{%- endmacro %}

{#- Pairs of items that one person engaged with on one day, each pair once
    (item_id <= neighbour_id), an item with itself too: that row counts the
    item alone. Bounded: a person's newest cooccurrence_history items of a day.
    `user_items` has the columns of `keys`, user_id, item_id, last_engaged_at. -#}
{% macro item_pairs(user_items, keys) -%}
  select
    {% for key in keys %}one.{{ key }}, {% endfor %}
    one.item_id,
    other.item_id as neighbour_id,
    cast(count(*) as bigint) as people
  from ({{ _newest_of_day(user_items, keys) }}) as one
  inner join ({{ _newest_of_day(user_items, keys) }}) as other
    on
      one.user_id = other.user_id
      and one.item_id <= other.item_id
      {% for key in keys %}and one.{{ key }} = other.{{ key }} {% endfor %}
  where
    one.place <= {{ var('cooccurrence_history') }}
    and other.place <= {{ var('cooccurrence_history') }}
  group by
    {% for key in keys %}one.{{ key }}, {% endfor %}one.item_id, other.item_id
{%- endmacro %}

{% macro _newest_of_day(user_items, keys) -%}
  select
    {% for key in keys %}{{ key }}, {% endfor %}
    user_id,
    item_id,
    row_number() over (
      partition by {% for key in keys %}{{ key }}, {% endfor %}user_id
      order by max(last_engaged_at) desc, item_id asc
    ) as place
  from {{ user_items }}
  group by {% for key in keys %}{{ key }}, {% endfor %}user_id, item_id
{%- endmacro %}

{#- Every instant of int_as_of with the days that its windows sum: the whole
    days before its date from the tile, then its own day up to the instant.
    `keys` are the tile's columns besides the day, `measures` the macro above,
    `columns` those of them that are asked for, `join_events` a further join that
    the keys need, `only` which events count, `days` how many whole days are
    read. -#}
{% macro days_up_to_as_of(
    tile, keys, measures, columns, join_events='', only='true', days=30
) -%}
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
      and tile.day >= {{ date_minus('instants.as_of_date', days) }}
  union all
  select
    purpose,
    as_of,
    as_of_date,
    day,
    {% for key in keys %}{{ key }}, {% endfor %}
    {{ columns | join(', ') }}
  from (
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
  where {{ only }}
  group by
    instants.purpose, instants.as_of, instants.as_of_date, events.occurred_on
    {%- for key in keys %}, {{ key }}{% endfor %}
  ) as today
{%- endmacro %}
