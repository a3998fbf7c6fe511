-- The very values an item was scored with: its list's, its build's and its own.
-- All three carry the instant at which the list was made, so that only files of
-- the days on which lists were made are read.
with known as (
    select
        event_id,
        rec_id
    from {{ ref('train_known_features') }}
),

impressions as (
    select fct.*
    from {{ ref('fct_impressions') }} as fct
    inner join known
        on fct.event_id = known.event_id and fct.rec_id = known.rec_id
),

lists as (
    select
        impressions.event_id,
        impressions.rec_id,
        impressions.build_id,
        impressions.item_id,
        impressions.list_position,
        feature_log.generated_at,
        feature_log.feature_names,
        feature_log.user_values,
        feature_log.candidate_values
    from impressions
    inner join {{ ref('stg_feature_log') }} as feature_log
        on
            impressions.listed_at = feature_log.generated_at
            and impressions.rec_id = feature_log.rec_id
),

items as (
    select
        lists.*,
        items.item_values,
        {{ array_length('lists.feature_names') }}
        - {{ array_length('lists.user_values') }}
        - {{ array_length('items.item_values') }} as width
    from lists
    inner join {{ ref('stg_feature_log_items') }} as items
        on
            lists.generated_at = items.generated_at
            and lists.build_id = items.build_id
            and lists.item_id = items.item_id
)

select
    event_id,
    rec_id,
    item_id,
    generated_at as available_at,
    feature_names,
    concat(
        user_values,
        item_values,
        {{ array_part(
            'candidate_values', '(list_position - 1) * width + 1', 'width'
        ) }}
    ) as feature_values
from items
