-- Every known item with all item features; a feature without a value takes its
-- default from the registry.
with items as (
    select * from {{ ref('int_items') }}
),

instants as (
    select * from {{ ref('int_as_of') }}
),

popularity as (
    select * from {{ ref('feat_item_popularity') }}
),

trending as (
    select * from {{ ref('feat_item_trending') }}
)

select
    instants.purpose,
    items.item_id,
    instants.as_of,
    instants.as_of as available_at,
    items.category,
    items.published_at,
    items.is_active,
    {% for name in [
        'item_popularity_1d',
        'item_popularity_7d',
        'item_popularity_30d',
        'item_impressions_30d',
        'item_ctr_30d',
    ] %}
        coalesce(popularity.{{ name }}, {{ feature_default(name) }})
            as {{ name }},
    {% endfor %}
    coalesce(trending.item_trending, {{ feature_default('item_trending') }})
        as item_trending,
    -- Whole days: the exact age would name the item.
    floor(
        {{ seconds_between('items.published_at', 'instants.as_of') }} / 86400
    ) as item_age_days
from items
cross join instants
left join popularity
    on
        instants.purpose = popularity.purpose
        and items.item_id = popularity.item_id
left join trending
    on
        instants.purpose = trending.purpose
        and items.item_id = trending.item_id
-- What was published later did not exist yet.
where items.published_at <= instants.as_of
