-- What people engaged with between the training instant and the run's own:
-- nothing, where the log of impressions is rich enough to learn from.
with instants as (
    select
        training.as_of as cut_at,
        serving.as_of
    from {{ ref('int_as_of') }} as training
    inner join {{ ref('int_as_of') }} as serving
        on
            training.purpose = 'training'
            and serving.purpose = 'serving'
),

labels as (
    select distinct
        events.user_id,
        events.item_id
    from {{ ref('stg_events') }} as events
    inner join instants
        on
            events.occurred_at > instants.cut_at
            and events.occurred_at <= instants.as_of
    where events.is_label
),

-- A spread of people that stays the same from run to run.
people as (
    select
        user_id,
        row_number() over (order by md5(user_id)) as place
    from labels
    where
        user_id in (
            select known.user_id from {{ ref('emb_kernel_users') }} as known
            where known.purpose = 'training'
        )
    group by user_id
)

select
    labels.user_id,
    labels.item_id
from labels
inner join people on labels.user_id = people.user_id
where people.place <= {{ var('training_users') }}
