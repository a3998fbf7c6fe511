{{ config(materialized='view') }}

-- Of lists made for the person only: a draw in the cold-start list is one draw,
-- however many see it.
with impressions as (
    select * from {{ ref('fct_impressions') }}
    where is_personal and propensity < 1
),

lists as (
    select * from {{ ref('stg_lists') }}
),

serving as (
    select as_of from {{ ref('int_as_of') }}
    where purpose = 'serving'
)

select
    impressions.event_id,
    impressions.user_id,
    impressions.item_id,
    impressions.surface,
    impressions.shown_at,
    impressions.propensity,
    {{ array_at('lists.pool_sizes', 'impressions.list_position') }}
        as pool_size,
    {{ array_at(
        'lists.expectations', '3 * (impressions.list_position - 1) + 1'
    ) }} as predicted,
    {{ array_at(
        'lists.expectations', '3 * (impressions.list_position - 1) + 2'
    ) }} as expected_as_drawn,
    {{ array_at(
        'lists.expectations', '3 * (impressions.list_position - 1) + 3'
    ) }} as expected_evenly,
    -- what followed after the instant is not known yet
    cast(
        case
            when impressions.first_outcome_at <= serving.as_of then 1
            else 0
        end as double
    ) as reward
from impressions
cross join serving
inner join lists
    on
        impressions.listed_at = lists.generated_at
        and impressions.rec_id = lists.rec_id
where
    impressions.shown_at <= serving.as_of
    -- lists of a time when it wasn't kept
    and lists.pool_sizes is not null
