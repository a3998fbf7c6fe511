-- Whole days: the exact age would name the item.
with items as (
    select * from {{ ref('int_items') }}
),

instants as (
    select * from {{ ref('int_as_of') }}
)

select
    instants.purpose,
    instants.as_of,
    items.item_id,
    cast(
        floor(
            {{ seconds_between('items.published_at', 'instants.as_of') }}
            / 86400
        ) as double
    ) as item_age_days
from items
cross join instants
-- What was published later did not exist yet.
where items.published_at <= instants.as_of
