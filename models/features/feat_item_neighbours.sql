-- Cosine of co-occurrence: how often a person engaged with both items on one
-- day. Bounded twice: a person's day counts with at most cooccurrence_history
-- items, an item keeps its nearest neighbours only.
with instants as (
    select * from {{ ref('int_as_of') }}
),

today as (
    select
        instants.purpose,
        instants.as_of,
        events.user_id,
        events.item_id,
        events.occurred_at as last_engaged_at
    from instants
    inner join {{ ref('stg_events') }} as events
        on
            instants.as_of_date = events.occurred_on
            and instants.as_of >= events.occurred_at
    where events.role in ('engagement', 'conversion')
),

days as (
    select
        instants.purpose,
        instants.as_of,
        tile.item_id,
        tile.neighbour_id,
        tile.people
    from instants
    inner join {{ ref('tile_item_pair_days') }} as tile
        on
            instants.as_of_date > tile.day
            and tile.day
            >= {{ date_minus('instants.as_of_date', var('history_days')) }}
    union all
    {{ item_pairs('today', keys=['purpose', 'as_of']) }}
),

pairs as (
    select
        purpose,
        as_of,
        item_id,
        neighbour_id,
        sum(people) as together
    from days
    group by purpose, as_of, item_id, neighbour_id
),

readers as (
    select
        purpose,
        item_id,
        together as people
    from pairs
    where item_id = neighbour_id
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
    where
        pairs.item_id != pairs.neighbour_id
        and pairs.together >= {{ var('min_cooccurrence') }}
),

both_ways as (
    select * from scored
    union all
    select
        purpose,
        as_of,
        neighbour_id as item_id,
        item_id as neighbour_id,
        score
    from scored
),

ranked as (
    select
        *,
        row_number() over (
            partition by purpose, item_id
            order by score desc, neighbour_id asc
        ) as place
    from both_ways
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
