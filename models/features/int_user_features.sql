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
),

activity as (
    select * from {{ ref('feat_user_activity') }}
),

affinity as (
    select * from {{ ref('feat_user_category_affinity') }}
)

select
    people.purpose,
    people.user_id,
    people.as_of,
    people.as_of as available_at,
    {% for name in [
        'user_events_7d',
        'user_active_days_30d',
        'user_impressions_30d',
        'user_ctr_30d',
        'user_dwell_7d_ms',
    ] %}
        coalesce(activity.{{ name }}, {{ feature_default(name) }})
            as {{ name }},
    {% endfor %}
    affinity.user_category_affinity
from people
left join activity
    on
        people.purpose = activity.purpose
        and people.user_id = activity.user_id
left join affinity
    on
        people.purpose = affinity.purpose
        and people.user_id = affinity.user_id
