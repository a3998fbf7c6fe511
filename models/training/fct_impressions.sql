{{ config(
    materialized='incremental',
    incremental_strategy='delete+insert',
    unique_key=['rec_id', 'item_id', 'user_id'],
) }}

-- An impression is asked again when any event of its list, item and person is
-- new, however late it came, and from everything there is of the three: so a
-- run on top of another gives what one run from scratch does.
with answers as (
    select * from {{ ref('stg_events') }}
    where rec_id is not null
),

lists as (
    select * from {{ ref('stg_lists') }}
),

surfaces as (
    select * from {{ ref('surfaces') }}
),

{% if is_incremental() %}
    listed_before as (
        select distinct rec_id from {{ this }}
    ),

    changed as (
        select
            rec_id,
            item_id,
            user_id
        from answers
        where load_seq > (select coalesce(max(changed_seq), -1) from {{ this }})
        union distinct
        -- A list that came into the table after it was answered.
        select
            answers.rec_id,
            answers.item_id,
            answers.user_id
        from answers
        inner join lists on answers.rec_id = lists.rec_id
        left join listed_before on answers.rec_id = listed_before.rec_id
        where listed_before.rec_id is null
    ),
{% endif %}

events as (
    select answers.*
    from answers
    {% if is_incremental() %}
        inner join changed
            on
                answers.rec_id = changed.rec_id
                and answers.item_id = changed.item_id
                and answers.user_id = changed.user_id
    {% endif %}
),

newest as (
    select
        rec_id,
        item_id,
        user_id,
        max(load_seq) as changed_seq
    from events
    group by rec_id, item_id, user_id
),

-- A client that shows a list again shows the same impression. The cold-start
-- list is everybody's: the person tells its impressions apart.
touches as (
    select
        *,
        row_number() over (
            partition by rec_id, item_id, user_id
            order by occurred_at, event_id
        ) as occurrence,
        count(*) over (partition by rec_id, item_id, user_id) as times_shown
    from events
    where role = 'exposure'
),

-- Only what was in the list can have come from it.
placed as (
    select
        touches.event_id,
        touches.rec_id,
        touches.request_id,
        touches.item_id,
        touches.user_id,
        touches.page_position,
        touches.times_shown,
        touches.occurred_at as shown_at,
        lists.surface,
        lists.model_version,
        lists.build_id,
        lists.generated_at as listed_at,
        lists.propensities,
        lists.user_id = touches.user_id as is_personal,
        {{ array_place('lists.item_ids', 'touches.item_id') }}
            as list_position
    from touches
    inner join lists on touches.rec_id = lists.rec_id
    where touches.occurrence = 1
),

-- The window opens anew each time the item is shown: the last touch counts.
-- However late an outcome is loaded, it is found here.
outcomes as (
    select
        placed.rec_id,
        placed.item_id,
        placed.user_id,
        count(distinct events.event_id) as outcomes,
        max(events.weight) as outcome_weight,
        min(events.occurred_at) as first_outcome_at
    from placed
    inner join surfaces on placed.surface = surfaces.surface
    inner join touches
        on
            placed.rec_id = touches.rec_id
            and placed.item_id = touches.item_id
            and placed.user_id = touches.user_id
    inner join events
        on
            placed.rec_id = events.rec_id
            and placed.item_id = events.item_id
            and placed.user_id = events.user_id
    where
        events.is_label
        and events.occurred_at >= touches.occurred_at
        and events.occurred_at < {{ hours_after(
            'touches.occurred_at', 'surfaces.attribution_window_hours'
        ) }}
    group by placed.rec_id, placed.item_id, placed.user_id
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
    placed.is_personal,
    placed.listed_at,
    placed.shown_at,
    cast(placed.times_shown as bigint) as times_shown,
    cast(placed.list_position as bigint) as list_position,
    placed.page_position,
    {{ array_at('placed.propensities', 'placed.list_position') }} as propensity,
    coalesce(outcomes.outcomes, 0) > 0 as is_positive,
    cast(coalesce(outcomes.outcome_weight, 0) as bigint) as outcome_weight,
    outcomes.first_outcome_at,
    newest.changed_seq
from placed
inner join newest
    on
        placed.rec_id = newest.rec_id
        and placed.item_id = newest.item_id
        and placed.user_id = newest.user_id
left join outcomes
    on
        placed.rec_id = outcomes.rec_id
        and placed.item_id = outcomes.item_id
        and placed.user_id = outcomes.user_id
where placed.list_position > 0
