{{ config(materialized='view') }}

-- What somebody said of themselves at the sign-up, beside what they are known
-- to like: where alike people's taste comes from, and whom it is for.
with features as (
    select * from {{ ref('int_user_features') }}
),

segments as (
    select * from {{ ref('feat_user_segments') }}
),

users as (
    select * from {{ ref('stg_users') }}
)

select
    features.purpose,
    features.user_id,
    segments.segment,
    users.country,
    users.device,
    users.referral_source,
    users.declared_preferences,
    features.user_category_affinity
from features
inner join users on features.user_id = users.user_id
inner join segments
    on
        features.purpose = segments.purpose
        and features.user_id = segments.user_id
