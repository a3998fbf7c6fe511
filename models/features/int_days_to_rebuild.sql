{{ config(
    materialized='incremental',
    incremental_strategy='delete+insert',
    unique_key='day',
) }}

-- A day's changed_seq is the newest load that brought an event of that day. A
-- tile that holds an older one is rebuilt, however late the event was.
with new_events as (
    select
        occurred_on,
        load_seq
    from {{ ref('stg_events') }}
    {% if is_incremental() %}
        where load_seq > (select coalesce(max(changed_seq), -1) from {{ this }})
    {% endif %}
)

select
    occurred_on as day,
    max(load_seq) as changed_seq
from new_events
group by occurred_on
