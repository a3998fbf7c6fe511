{{ config(materialized='view') }}

-- What the kernel is given: USER_COLUMNS and the ranked user features.
with history as (
    select * from {{ ref('feat_user_history') }}
),

features as (
    select * from {{ ref('int_user_features') }}
),

vectors as (
    select * from {{ ref('emb_user_vectors') }}
)

select
    history.purpose,
    history.surface,
    history.as_of,
    history.user_id,
    vectors.vector,
    cast(features.user_category_affinity as {{ type_float_array() }})
        as user_category_affinity,
    history.recent_items,
    history.consumed_items,
    {{ feature_names('user', vectors=false, prefix='features.') | join(', ') }}
from history
inner join features
    on
        history.purpose = features.purpose
        and history.user_id = features.user_id
left join vectors
    on
        history.purpose = vectors.purpose
        and history.user_id = vectors.user_id
