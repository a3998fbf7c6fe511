select lists.rec_id
from {{ ref('rec_lists') }} as lists
where
    {{ array_length('lists.item_ids') }} = 0
    and exists (
        select 1 from {{ ref('feat_items') }} as items
        where items.is_active
    )
