-- The point-in-time join never reaches past the instant its list was made.
select
    event_id,
    user_available_at,
    item_available_at,
    listed_at
from {{ ref('train_known_features') }}
where user_available_at > listed_at or item_available_at > listed_at
