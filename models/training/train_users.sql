{{ config(materialized='view') }}

-- The people of train_labels as the kernel would have seen them.
select users.*
from {{ ref('emb_kernel_users') }} as users
inner join {{ ref('surfaces') }} as surfaces
    on users.surface = surfaces.surface
where
    users.purpose = 'training'
    and surfaces.trains_ranker
    and users.user_id in (select user_id from {{ ref('train_labels') }})
