{{ config(materialized='view') }}

-- What the half-life of trends is chosen by: all engagements of a spread of
-- people, the same from run to run, about trend_events of them.
with events as (
    select * from {{ ref('stg_events') }}
    where role in ('engagement', 'conversion')
),

engagements as (
    select
        events.event_id,
        events.user_id,
        events.item_id,
        events.event_type,
        events.occurred_at
    from events
    inner join {{ ref('int_as_of') }} as instants
        on events.occurred_at <= instants.as_of
    where
        instants.purpose = 'serving'
        and events.occurred_at
        > {{ days_before('instants.as_of', var('history_days')) }}
),

people as (
    select
        user_id,
        sum(count(*)) over (order by md5(user_id)) as events_so_far
    from engagements
    group by user_id
)

select
    engagements.event_id,
    engagements.user_id,
    engagements.item_id,
    engagements.event_type,
    engagements.occurred_at
from engagements
inner join people on engagements.user_id = people.user_id
where people.events_so_far <= {{ var('trend_events') }}
