-- Whom too little is known of to be sure: the ranker trusts other things then,
-- and exploration draws more evenly.
with pairs as (
    select
        purpose,
        as_of,
        user_id,
        count(*) as items
    from {{ ref('int_user_items') }}
    group by purpose, as_of, user_id
)

select
    purpose,
    as_of,
    user_id,
    cast(
        case when items < {{ var('sure_from_items') }} then 1 else 0 end
        as double
    ) as user_is_little_known
from pairs
