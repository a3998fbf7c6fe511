{{ config(materialized='view') }}

-- What is known of an item before anyone has touched it.
with features as (
    select * from {{ ref('int_item_features') }}
),

items as (
    select * from {{ ref('int_items') }}
)

select
    features.purpose,
    features.item_id,
    items.category,
    items.tags,
    items.title,
    items.published_at,
    items.is_active
from features
inner join items on features.item_id = items.item_id
