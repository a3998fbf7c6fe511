{{ config(materialized='view') }}

-- The people of train_labels as the kernel would have seen them.
with known as (
    select * from {{ ref('emb_kernel_users') }}
    where
        purpose = 'training'
        and surface in (
            select surfaces.surface from {{ ref('surfaces') }} as surfaces
            where surfaces.trains_ranker
        )
)

select
    purpose,
    surface,
    as_of,
    user_id,
    vector,
    user_category_affinity,
    taste,
    recent_items,
    consumed_items,
    {{ feature_names('user', vectors=false) | join(', ') }}
from known
where
    user_id in (select labels.user_id from {{ ref('train_labels') }} as labels)
