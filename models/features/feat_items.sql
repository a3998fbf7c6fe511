select
    item_id,
    as_of,
    available_at,
    category,
    published_at,
    is_active,
    item_trending,
    item_popularity_1d,
    item_popularity_7d,
    item_popularity_30d,
    item_impressions_30d,
    item_ctr_30d,
    item_age_days
from {{ ref('int_item_features') }}
where purpose = 'serving'
