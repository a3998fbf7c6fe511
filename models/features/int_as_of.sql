-- The instants this run stands at. `serving` is the run's as_of. `training` is
-- there only while the log holds too few impressions to learn from: an earlier
-- instant, so that what came after it can be the label.
with events as (
    select * from {{ ref('stg_events') }}
),

serving as (
    select
        {% if var('as_of') %}
            {{ instant(var('as_of')) }} as as_of
        {% else %}
            coalesce(
                (select max(ingested_at) from events),
                (select max(ingested_at) from {{ ref('stg_items') }}),
                {{ instant('1970-01-01 00:00:00') }}
            ) as as_of
        {% endif %}
),

recent as (
    select
        events.occurred_at,
        events.role,
        events.rec_id,
        events.is_label
    from events
    cross join serving
    where
        events.occurred_at <= serving.as_of
        and events.occurred_at
        > {{ days_before('serving.as_of', var('history_days')) }}
),

logged as (
    select count(*) as impressions
    from recent
    where role = 'exposure' and rec_id is not null
),

labels as (
    select
        recent.occurred_at,
        row_number() over (order by recent.occurred_at) as place,
        count(*) over () as total
    from recent
    cross join logged
    where
        recent.is_label
        and logged.impressions < {{ var('min_logged_impressions') }}
),

training as (
    select max(occurred_at) as as_of
    from labels
    where
        place <= total - least(
            total * {{ var('training_label_share') }},
            {{ var('training_labels') }}
        )
),

instants as (
    select
        'serving' as purpose,
        as_of
    from serving
    union all
    select
        'training' as purpose,
        as_of
    from training
    where as_of is not null
)

select
    purpose,
    as_of,
    cast(as_of as date) as as_of_date
from instants
