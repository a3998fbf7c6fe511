-- Every item anyone has spoken of: the catalogue's, and those that only events
-- name. The latter have a category of their own and are never recommended,
-- because nothing says that they are active.
with catalogue as (
    select * from {{ ref('stg_items') }}
),

-- From tiles: a run doesn't read every event there ever was.
items_of_events as (
    select
        item_id,
        min(first_seen_at) as first_seen_at
    from {{ ref('tile_item_days') }}
    group by item_id
)

select
    catalogue.tags,
    coalesce(catalogue.item_id, items_of_events.item_id) as item_id,
    coalesce(catalogue.category, 'uncatalogued') as category,
    coalesce(
        catalogue.published_at, items_of_events.first_seen_at
    ) as published_at,
    coalesce(catalogue.is_active, false) as is_active,
    coalesce(catalogue.title, '') as title,
    coalesce(catalogue.description, '') as description
from catalogue
full outer join items_of_events
    on catalogue.item_id = items_of_events.item_id
