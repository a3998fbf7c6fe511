-- What tastes are learned from: every impression of the last days with its
-- answer as known by the run, what people found without a list, how long
-- they stayed with either and what else they did with it. Only once the
-- ranker learns from the log, too.
with instants as (
    select
        purpose,
        as_of,
        as_of_date
    from {{ ref('int_as_of') }}
    where
        purpose = 'serving'
        and not exists (
            select 1 from {{ ref('int_as_of') }} as other
            where other.purpose = 'training'
        )
),

events as (
    select
        instants.purpose,
        instants.as_of,
        events.user_id,
        events.item_id,
        events.rec_id,
        events.role,
        events.is_label,
        events.weight,
        events.page_position,
        events.dwell_time_ms,
        events.occurred_on
    from instants
    inner join {{ ref('stg_events') }} as events
        on
            {{ date_minus('instants.as_of_date', var('training_days')) }}
            <= events.occurred_on
            and instants.as_of >= events.occurred_at
    where
        events.role = 'exposure'
        or events.is_label
        or events.dwell_time_ms > 0
)

select
    purpose,
    as_of,
    user_id,
    item_id,
    rec_id,
    min(occurred_on) as day,
    cast(min(page_position) as int) as position,
    cast(max(case when is_label then 1 else 0 end) as int) as label,
    cast(sum(dwell_time_ms) as bigint) as dwell_ms,
    sum(case when is_label then weight end) as worth
from events
where rec_id is not null
group by purpose, as_of, user_id, item_id, rec_id
having count(*) filter (where role = 'exposure' and page_position > 0) > 0
union all
select
    purpose,
    as_of,
    user_id,
    item_id,
    cast(null as {{ dbt.type_string() }}) as rec_id,
    occurred_on as day,
    cast(null as int) as position,
    1 as label,
    cast(sum(dwell_time_ms) as bigint) as dwell_ms,
    sum(case when is_label then weight end) as worth
from events
where rec_id is null and (is_label or dwell_time_ms > 0)
group by purpose, as_of, user_id, item_id, occurred_on
having count(*) filter (where is_label) > 0
