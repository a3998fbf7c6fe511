-- What each person engaged with, newest first: the base of histories and
-- interactions. Nothing after the instant is seen.
with days as (
    {{ days_up_to_as_of(
        tile=ref('tile_user_item_days'),
        keys=['user_id', 'item_id', 'half_life_days'],
        measures=interaction_measures(),
        columns=['engagements', 'last_engaged_at', 'millionths'],
        only="events.role in ('engagement', 'conversion')",
        days=var('history_days'),
    ) }}
),

pairs as (
    select
        purpose,
        as_of,
        user_id,
        item_id,
        max(last_engaged_at) as last_engaged_at,
        cast(
            sum({{ halved(
                'millionths',
                end_of_day('day'),
                'as_of',
                'half_life_days * 86400',
            ) }}) as bigint
        ) as confidence_millionths
    from days
    group by purpose, as_of, user_id, item_id
)

select
    *,
    row_number() over (
        partition by purpose, user_id
        order by last_engaged_at desc, item_id asc
    ) as recency_place
from pairs
