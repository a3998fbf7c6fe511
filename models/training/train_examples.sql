-- The log first: the very values a list was scored with. Where the log no
-- longer has a list, what the history knew when it was made. Candidates rebuilt
-- from a time split only while there are few impressions (train_candidates is
-- empty otherwise).
with serving as (
    select as_of from {{ ref('int_as_of') }}
    where purpose = 'serving'
),

split as (
    select count(*) as candidates
    from {{ ref('train_candidates') }}
),

impressions as (
    select
        fct.event_id,
        fct.rec_id,
        fct.item_id,
        fct.propensity,
        fct.shown_at,
        cast(
            coalesce(fct.page_position, fct.list_position) as int
        ) as position,
        -- what followed after the instant is not known yet
        cast(
            case when fct.first_outcome_at <= serving.as_of then 1 else 0 end
            as float
        ) as label,
        -- everybody is shown the same cold-start list
        concat(fct.rec_id, '/', fct.user_id) as group_id
    from {{ ref('fct_impressions') }} as fct
    inner join {{ ref('surfaces') }} as surfaces
        on fct.surface = surfaces.surface
    cross join split
    cross join serving
    where surfaces.trains_ranker and split.candidates = 0
),

logged as (
    select * from {{ ref('train_logged_features') }}
),

known as (
    select
        event_id,
        rec_id,
        item_available_at as available_at,
        {{ array_of_strings(kept_features('user') + kept_features('item')) }}
            as feature_names,
        {{ array_of_floats(kept_features('user') + kept_features('item')) }}
            as feature_values
    from {{ ref('train_known_features') }}
    where item_available_at is not null
),

shown as (
    select
        impressions.group_id,
        impressions.item_id,
        impressions.position,
        impressions.label,
        coalesce(logged.feature_names, known.feature_names) as feature_names,
        coalesce(logged.feature_values, known.feature_values)
            as feature_values,
        impressions.propensity,
        coalesce(logged.available_at, known.available_at) as available_at,
        impressions.shown_at
    from impressions
    left join logged
        on
            impressions.event_id = logged.event_id
            and impressions.rec_id = logged.rec_id
    left join known
        on
            impressions.event_id = known.event_id
            and impressions.rec_id = known.rec_id
    where logged.event_id is not null or known.event_id is not null
),

rebuilt as (
    select
        candidates.group_id,
        candidates.item_id,
        candidates.position,
        candidates.label,
        candidates.feature_names,
        candidates.feature_values,
        cast(null as float) as propensity,
        training.as_of as available_at,
        serving.as_of as shown_at
    from {{ ref('train_candidates') }} as candidates
    inner join {{ ref('int_as_of') }} as training
        on training.purpose = 'training'
    cross join serving
)

select * from shown
union all
select * from rebuilt
