-- Everyone who was here within history_days or signed up within new_user_days,
-- with all user features; a feature without a value takes its default from the
-- registry.
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
    union distinct
    select
        instants.purpose,
        instants.as_of,
        users.user_id
    from {{ ref('stg_users') }} as users
    inner join {{ ref('int_as_of') }} as instants
        on
            users.created_at <= instants.as_of
            and users.created_at
            > {{ days_before('instants.as_of', var('new_user_days')) }}
)

select
    people.purpose,
    people.user_id,
    people.as_of,
    people.as_of as available_at,
    {{ feature_columns('user') }}
from people
{{ join_features('user', 'people') }}
