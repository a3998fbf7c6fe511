{{ config(
    materialized='incremental',
    incremental_strategy='replace_days',
) }}

-- Most events are impressions, which say nothing of taste: without their rows a
-- window sums a third of them.
with events as (
    select * from {{ ref('stg_events') }}
    where role in ('engagement', 'conversion')
),

items as (
    select * from {{ ref('int_items') }}
),

days as (
    {{ days_to_rebuild() }}
)

select
    events.occurred_on as day,
    events.user_id,
    items.category,
    {{ affinity_measures() }},
    max(days.changed_seq) as changed_seq
from events
inner join days on events.occurred_on = days.day
inner join items on events.item_id = items.item_id
group by events.occurred_on, events.user_id, items.category
