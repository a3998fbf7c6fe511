-- What each person engaged with, newest first: the base of histories,
-- co-occurrence and interactions. Nothing after the instant is seen.
with events as (
    select * from {{ ref('stg_events') }}
    where role in ('engagement', 'conversion')
),

instants as (
    select * from {{ ref('int_as_of') }}
),

pairs as (
    select
        instants.purpose,
        instants.as_of,
        events.user_id,
        events.item_id,
        max(events.occurred_at) as last_engaged_at,
        cast(
            sum({{ decayed_millionths(
                'events.weight',
                'events.occurred_at',
                'instants.as_of',
                'events.half_life_days * 86400',
            ) }}) as bigint
        ) as confidence_millionths
    from instants
    inner join events on instants.as_of >= events.occurred_at
    where
        events.occurred_at
        > {{ days_before('instants.as_of', var('history_days')) }}
    group by
        instants.purpose, instants.as_of, events.user_id, events.item_id
)

select
    *,
    row_number() over (
        partition by purpose, user_id
        order by last_engaged_at desc, item_id asc
    ) as recency_place
from pairs
