with days as (
    {{ days_up_to_as_of(
        tile=ref('tile_user_category_days'),
        keys=['user_id', 'category'],
        measures=affinity_measures(),
        columns=['engagement_weight'],
        join_events="inner join " ~ ref('int_items')
        ~ " as items on events.item_id = items.item_id",
    ) }}
),

windows as (
    select
        purpose,
        as_of,
        user_id,
        category,
        cast(sum(engagement_weight) as bigint) as engagement_weight
    from days
    group by purpose, as_of, user_id, category
),

totals as (
    select
        purpose,
        user_id,
        as_of,
        cast(sum(engagement_weight) as bigint) as engagement_weight
    from windows
    group by purpose, as_of, user_id
    having sum(engagement_weight) > 0
),

-- One element a category, in the order of dim_categories.
shares as (
    select
        totals.purpose,
        totals.as_of,
        totals.user_id,
        categories.category_place,
        coalesce(
            cast(windows.engagement_weight as double)
            / totals.engagement_weight,
            0
        ) as weight_share
    from totals
    cross join {{ ref('dim_categories') }} as categories
    left join windows
        on
            totals.purpose = windows.purpose
            and totals.user_id = windows.user_id
            and categories.category = windows.category
)

select
    purpose,
    as_of,
    user_id,
    {{ array_ordered('weight_share', 'category_place', 100000) }}
        as user_category_affinity
from shares
group by purpose, as_of, user_id
