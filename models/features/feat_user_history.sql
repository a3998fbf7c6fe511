-- Per surface, because the repeat policy is the surface's: what was consumed
-- stays away for ever (never), for a while (after:7d, after:12h) or not at all
-- (always).
with surfaces as (
    select
        surface,
        repeat_policy,
        cast(
            coalesce(
                nullif(regexp_extract(repeat_policy, '([0-9]+)', 1), ''), '0'
            ) as bigint
        ) * case when repeat_policy like '%d' then 24 else 1 end as away_hours
    from {{ ref('surfaces') }}
    where serves_list
),

user_items as (
    select
        surfaces.surface,
        pairs.purpose,
        pairs.as_of,
        pairs.user_id,
        pairs.item_id,
        pairs.recency_place,
        case
            when surfaces.repeat_policy = 'never' then true
            when surfaces.repeat_policy = 'always' then false
            else
                pairs.as_of < {{ hours_after(
                    'pairs.last_engaged_at', 'surfaces.away_hours'
                ) }}
        end as is_away
    from {{ ref('int_user_items') }} as pairs
    cross join surfaces
)

select
    surface,
    purpose,
    as_of,
    user_id,
    {{ array_ordered(
        'item_id', 'recency_place', var('recent_items')
    ) }} as recent_items,
    {{ array_ordered(
        'item_id', 'recency_place', 1000, only='is_away'
    ) }} as consumed_items
from user_items
group by surface, purpose, as_of, user_id
