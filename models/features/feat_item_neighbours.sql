-- Cosine of co-occurrence over people's newest items. Bounded: a person counts
-- with at most cooccurrence_history items, an item keeps its nearest
-- neighbours only.
with histories as (
    select
        purpose,
        as_of,
        user_id,
        item_id
    from {{ ref('int_user_items') }}
    where recency_place <= {{ var('cooccurrence_history') }}
),

readers as (
    select
        purpose,
        item_id,
        count(*) as people
    from histories
    group by purpose, item_id
),

pairs as (
    select
        one.purpose,
        one.as_of,
        one.item_id,
        other.item_id as neighbour_id,
        count(*) as together
    from histories as one
    inner join histories as other
        on
            one.purpose = other.purpose
            and one.user_id = other.user_id
            and one.item_id != other.item_id
    group by one.purpose, one.as_of, one.item_id, other.item_id
    having count(*) >= {{ var('min_cooccurrence') }}
),

scored as (
    select
        pairs.purpose,
        pairs.as_of,
        pairs.item_id,
        pairs.neighbour_id,
        cast(pairs.together as double) / sqrt(
            cast(item_readers.people as double)
            * cast(neighbour_readers.people as double)
        ) as score
    from pairs
    inner join readers as item_readers
        on
            pairs.purpose = item_readers.purpose
            and pairs.item_id = item_readers.item_id
    inner join readers as neighbour_readers
        on
            pairs.purpose = neighbour_readers.purpose
            and pairs.neighbour_id = neighbour_readers.item_id
),

ranked as (
    select
        *,
        row_number() over (
            partition by purpose, item_id
            order by score desc, neighbour_id asc
        ) as place
    from scored
)

select
    purpose,
    as_of,
    item_id,
    neighbour_id,
    place,
    score
from ranked
where place <= {{ var('neighbours') }}
