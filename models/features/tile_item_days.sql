{{ config(
    materialized='incremental',
    incremental_strategy='replace_days',
) }}

with events as (
    select * from {{ ref('stg_events') }}
),

days as (
    {{ days_to_rebuild() }}
)

select
    events.occurred_on as day,
    events.item_id,
    {{ item_measures() }},
    min(events.occurred_at) as first_seen_at,
    max(days.changed_seq) as changed_seq
from events
inner join days on events.occurred_on = days.day
group by events.occurred_on, events.item_id
