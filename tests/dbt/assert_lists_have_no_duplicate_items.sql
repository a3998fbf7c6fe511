select rec_id
from {{ ref('rec_lists') }}
where
    {{ array_length('item_ids') }}
    > {{ array_length(array_distinct('item_ids')) }}
