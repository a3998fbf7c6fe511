select
    user_id,
    as_of,
    available_at,
    user_events_7d,
    user_active_days_30d,
    user_impressions_30d,
    user_ctr_30d,
    user_dwell_7d_ms,
    user_category_affinity
from {{ ref('int_user_features') }}
where purpose = 'serving'
