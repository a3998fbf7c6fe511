-- The mean vector of a segment's people. Summed in millionths: the order in
-- which floats are added changes their sum.
with vectors as (
    select
        segments.purpose,
        segments.as_of,
        segments.segment,
        vectors.user_id,
        vectors.vector
    from {{ ref('feat_user_segments') }} as segments
    inner join {{ ref('emb_user_vectors') }} as vectors
        on
            segments.purpose = vectors.purpose
            and segments.user_id = vectors.user_id
    where vectors.vector is not null
),

sums as (
    select
        vectors.purpose,
        vectors.as_of,
        vectors.segment,
        element.place,
        cast(count(*) as bigint) as people,
        cast(
            sum(
                cast(
                    floor(cast(element.value as double) * 1000000 + 0.5)
                    as bigint
                )
            ) as bigint
        ) as millionths
    from vectors
    {{ explode_with_place('vectors.vector', 'element', 'place', 'value') }}
    group by
        vectors.purpose, vectors.as_of, vectors.segment, element.place
)

select
    purpose,
    as_of,
    segment,
    max(people) as people,
    {{ array_ordered(
        'cast(cast(millionths as double) / people / 1000000 as float)',
        'place', 100000
    ) }} as vector
from sums
group by purpose, as_of, segment
