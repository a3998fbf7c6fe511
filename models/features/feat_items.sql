select
    item_id,
    as_of,
    available_at,
    category,
    published_at,
    is_active,
    {{ feature_names('item') | join(', ') }}
from {{ ref('int_item_features') }}
where purpose = 'serving'
