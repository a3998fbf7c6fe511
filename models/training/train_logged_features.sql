-- The very values an item was scored with, cut out of its list in the log.
with impressions as (
    select * from {{ ref('fct_impressions') }}
),

known as (
    select event_id from {{ ref('train_known_features') }}
),

feature_log as (
    select * from {{ ref('stg_feature_log') }}
),

places as (
    select
        impressions.event_id,
        impressions.rec_id,
        impressions.item_id,
        feature_log.generated_at as available_at,
        feature_log.feature_names,
        feature_log.feature_values,
        {{ array_length('feature_log.feature_names') }} as width,
        {{ array_place('feature_log.item_ids', 'impressions.item_id') }}
            as place
    from known
    inner join impressions on known.event_id = impressions.event_id
    inner join feature_log on impressions.rec_id = feature_log.rec_id
)

select
    event_id,
    rec_id,
    item_id,
    available_at,
    feature_names,
    {{ array_part('feature_values', '(place - 1) * width + 1', 'width') }}
        as feature_values
from places
where place > 0
