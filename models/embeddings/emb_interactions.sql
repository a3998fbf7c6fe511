select
    purpose,
    as_of,
    user_id,
    item_id,
    cast(confidence_millionths as double) / 1000000 as confidence
from {{ ref('int_user_items') }}
where confidence_millionths > 0
