{{ config(
    materialized='incremental',
    incremental_strategy='replace_days',
) }}

with events as (
    select * from {{ ref('stg_events') }}
    where role in ('engagement', 'conversion')
),

days as (
    {{ days_to_rebuild() }}
)

select
    events.occurred_on as day,
    events.user_id,
    events.item_id,
    events.half_life_days,
    {{ interaction_measures() }},
    max(days.changed_seq) as changed_seq
from events
inner join days on events.occurred_on = days.day
group by
    events.occurred_on, events.user_id, events.item_id, events.half_life_days
