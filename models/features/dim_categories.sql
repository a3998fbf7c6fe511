select
    category,
    cast(row_number() over (order by category) as bigint) as category_place
from {{ ref('int_items') }}
group by category
