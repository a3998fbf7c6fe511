-- From events, not tiles: what is trending turns within hours, or minutes.
with events as (
    select * from {{ ref('stg_events') }}
    where role in ('engagement', 'conversion')
),

instants as (
    select * from {{ ref('int_as_of') }}
),

trend as (
    select * from {{ ref('int_trend') }}
),

recent as (
    select
        instants.purpose,
        instants.as_of,
        events.item_id,
        {{ decayed_millionths(
            'events.weight',
            'events.occurred_at',
            'instants.as_of',
            'trend.half_life_hours * 3600',
        ) }} as item_trending,
        {{ decayed_millionths(
            'events.weight',
            'events.occurred_at',
            'instants.as_of',
            3600,
        ) }} as item_trending_1h,
        {{ decayed_millionths(
            'events.weight',
            'events.occurred_at',
            'instants.as_of',
            600,
        ) }} as item_trending_10m
    from instants
    inner join events on instants.as_of >= events.occurred_at
    cross join trend
    where
        events.occurred_at
        > {{ days_before('instants.as_of', var('trend_days')) }}
)

select
    purpose,
    as_of,
    item_id,
    cast(sum(item_trending) as double) / 1000000 as item_trending,
    cast(sum(item_trending_1h) as double) / 1000000 as item_trending_1h,
    cast(sum(item_trending_10m) as double) / 1000000 as item_trending_10m
from recent
group by purpose, as_of, item_id
