-- The features of every impression as the history knew them when its list was
-- made. A list that was not made for somebody knew nothing of them.
with impressions as (
    select
        fct.event_id,
        fct.rec_id,
        fct.item_id,
        fct.user_id,
        fct.is_personal,
        fct.listed_at
    from {{ ref('fct_impressions') }} as fct
    cross join {{ ref('int_as_of') }} as instants
    where
        instants.purpose = 'serving'
        and fct.shown_at <= instants.as_of
        and fct.shown_at
        > {{ days_before('instants.as_of', var('training_days')) }}
),

known_users as (
    {{ known_versions(ref('snap_user_features'), 'user_id') }}
),

known_items as (
    {{ known_versions(ref('snap_item_features'), 'item_id') }}
)

select
    impressions.event_id,
    impressions.rec_id,
    impressions.item_id,
    impressions.user_id,
    impressions.listed_at,
    known_users.available_at as user_available_at,
    known_items.available_at as item_available_at,
    {{ known_columns('user', 'known_users') }},
    {{ known_columns('item', 'known_items') }}
from impressions
{{ join_known(
    'known_users', 'user_id', 'impressions', 'impressions.listed_at',
    only='impressions.is_personal',
) }}
{{ join_known(
    'known_items', 'item_id', 'impressions', 'impressions.listed_at'
) }}
