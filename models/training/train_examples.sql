-- The log first: the very values a list was scored with. Candidates rebuilt
-- from a time split only while the log is thin (train_candidates is empty
-- otherwise).
with serving as (
    select as_of from {{ ref('int_as_of') }}
    where purpose = 'serving'
),

split as (
    select count(*) as candidates
    from {{ ref('train_candidates') }}
),

impressions as (
    select fct.*
    from {{ ref('fct_impressions') }} as fct
    inner join {{ ref('surfaces') }} as surfaces
        on fct.surface = surfaces.surface
    cross join serving
    where
        surfaces.trains_ranker
        and fct.shown_at <= serving.as_of
        and fct.shown_at
        > {{ days_before('serving.as_of', var('training_days')) }}
),

logged as (
    select
        impressions.rec_id as group_id,
        impressions.item_id,
        cast(
            coalesce(
                impressions.page_position, impressions.list_position
            ) as int
        ) as position,
        cast(
            case when impressions.is_positive then 1 else 0 end as float
        ) as label,
        feature_log.feature_names,
        {{ array_part(
            'feature_log.feature_values',
            '(' ~ array_place('feature_log.item_ids', 'impressions.item_id')
            ~ ' - 1) * ' ~ array_length('feature_log.feature_names') ~ ' + 1',
            array_length('feature_log.feature_names'),
        ) }} as feature_values,
        impressions.propensity,
        feature_log.generated_at as available_at,
        impressions.shown_at
    from impressions
    inner join {{ ref('stg_feature_log') }} as feature_log
        on impressions.rec_id = feature_log.rec_id
    cross join split
    where split.candidates = 0
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

select * from logged
union all
select * from rebuilt
