-- Everyone who was here within history_days, with all user features; a feature
-- without a value takes its default from the registry.
with people as (
    select
        purpose,
        as_of,
        user_id
    from {{ ref('int_user_items') }}
    union distinct
    select
        purpose,
        as_of,
        user_id
    from {{ ref('feat_user_activity') }}
)

select
    people.purpose,
    people.user_id,
    people.as_of,
    people.as_of as available_at,
    {{ feature_columns('user') }}
from people
{{ join_features('user', 'people') }}
