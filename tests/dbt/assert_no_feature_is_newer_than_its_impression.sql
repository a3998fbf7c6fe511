select
    group_id,
    item_id,
    available_at,
    shown_at
from {{ ref('train_examples') }}
where available_at > shown_at
