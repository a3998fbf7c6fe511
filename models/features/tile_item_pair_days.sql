{{ config(
    materialized='incremental',
    incremental_strategy='replace_days',
) }}

with days as (
    {{ days_to_rebuild() }}
),

user_items as (
    select
        user_days.day,
        user_days.user_id,
        user_days.item_id,
        user_days.last_engaged_at
    from {{ ref('tile_user_item_days') }} as user_days
    inner join days on user_days.day = days.day
),

pairs as (
    {{ item_pairs('user_items', keys=['day']) }}
)

select
    pairs.day,
    pairs.item_id,
    pairs.neighbour_id,
    pairs.people,
    days.changed_seq
from pairs
inner join days on pairs.day = days.day
