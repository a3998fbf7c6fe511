with events as (
    select * from {{ ref('stg_events') }}
),

lists as (
    select * from {{ ref('stg_lists') }}
),

surfaces as (
    select * from {{ ref('surfaces') }}
),

-- A client that shows a list again shows the same impression.
first_impressions as (
    select
        *,
        row_number() over (
            partition by rec_id, item_id
            order by occurred_at, event_id
        ) as occurrence
    from events
    where role = 'exposure' and rec_id is not null
),

-- Only what was in the list can have come from it.
placed as (
    select
        first_impressions.event_id,
        first_impressions.rec_id,
        first_impressions.request_id,
        first_impressions.item_id,
        first_impressions.user_id,
        first_impressions.page_position,
        first_impressions.occurred_at as shown_at,
        lists.surface,
        lists.model_version,
        lists.build_id,
        lists.generated_at as listed_at,
        lists.propensities,
        {{ array_place('lists.item_ids', 'first_impressions.item_id') }}
            as list_position
    from first_impressions
    inner join lists on first_impressions.rec_id = lists.rec_id
    where first_impressions.occurrence = 1
),

outcomes as (
    select
        placed.event_id,
        count(*) as outcomes,
        max(events.weight) as outcome_weight,
        min(events.occurred_at) as first_outcome_at
    from placed
    inner join surfaces on placed.surface = surfaces.surface
    inner join events
        on
            placed.rec_id = events.rec_id
            and placed.item_id = events.item_id
            and placed.user_id = events.user_id
    where
        events.is_label
        and events.occurred_at >= placed.shown_at
        and events.occurred_at < {{ hours_after(
            'placed.shown_at', 'surfaces.attribution_window_hours'
        ) }}
    group by placed.event_id
)

select
    placed.event_id,
    placed.rec_id,
    placed.request_id,
    placed.item_id,
    placed.user_id,
    placed.surface,
    placed.model_version,
    placed.build_id,
    placed.listed_at,
    placed.shown_at,
    cast(placed.list_position as bigint) as list_position,
    placed.page_position,
    {{ array_at('placed.propensities', 'placed.list_position') }} as propensity,
    coalesce(outcomes.outcomes, 0) > 0 as is_positive,
    cast(coalesce(outcomes.outcome_weight, 0) as bigint) as outcome_weight,
    outcomes.first_outcome_at
from placed
left join outcomes on placed.event_id = outcomes.event_id
where placed.list_position > 0
