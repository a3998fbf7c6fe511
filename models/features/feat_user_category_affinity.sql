with days as (
    {{ days_up_to_as_of(
        tile=ref('tile_user_category_days'),
        keys=['user_id', 'category'],
        measures=affinity_measures(),
        columns=['engagement_weight'],
        join_events="inner join " ~ ref('int_items')
        ~ " as items on events.item_id = items.item_id",
        only="events.role in ('engagement', 'conversion')",
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

-- Few of all categories are a person's: what they have is gathered first, and
-- the zeros of the others are filled in last.
people as (
    select
        purpose,
        as_of,
        user_id,
        {{ array_together(['category', 'engagement_weight']) }},
        cast(sum(engagement_weight) as double) as total_weight
    from windows
    group by purpose, as_of, user_id
    having sum(engagement_weight) > 0
),

categories as (
    select
        {{ array_ordered('category', 'category_place', 100000) }}
            as all_categories
    from {{ ref('dim_categories') }}
)

-- One element a category, in the order of dim_categories.
select
    people.purpose,
    people.as_of,
    people.user_id,
    {{ array_for_each(
        'categories.all_categories',
        of='people.category_array',
        values='people.engagement_weight_array',
        divided_by='people.total_weight',
    ) }} as user_category_affinity
from people
cross join categories
