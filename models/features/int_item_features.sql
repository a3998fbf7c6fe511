-- Every item published by the instant with all item features; a feature without
-- a value takes its default from the registry.
with items as (
    select * from {{ ref('int_items') }}
),

instants as (
    select * from {{ ref('int_as_of') }}
)

select
    instants.purpose,
    items.item_id,
    instants.as_of,
    instants.as_of as available_at,
    items.category,
    items.published_at,
    items.is_active,
    {{ feature_columns('item') }}
from items
cross join instants
{{ join_features('item', 'items', instants='instants') }}
-- What was published later did not exist yet.
where items.published_at <= instants.as_of
