select
    lists.rec_id,
    listed.item_id
from {{ ref('rec_lists') }} as lists
{{ explode('lists.item_ids', 'listed', 'item_id') }}
left join {{ ref('feat_items') }} as items
    on listed.item_id = items.item_id
where items.is_active is not true
