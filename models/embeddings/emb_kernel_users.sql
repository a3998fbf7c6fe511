{{ config(materialized='view') }}

-- What the kernel is given: USER_COLUMNS and the ranked user features. Of whom
-- there is no history, alike people's taste stands in.
with history as (
    select * from {{ ref('feat_user_history') }}
),

features as (
    select * from {{ ref('int_user_features') }}
),

vectors as (
    select * from {{ ref('emb_user_vectors') }}
),

priors as (
    select * from {{ ref('emb_user_priors') }}
),

tastes as (
    select * from {{ ref('emb_tastes') }}
    where entity_type = 'user'
),

surfaces as (
    select * from {{ ref('surfaces') }}
    where serves_list
),

people as (
    select
        purpose,
        as_of,
        surface,
        user_id
    from history
    union distinct
    select
        priors.purpose,
        priors.as_of,
        surfaces.surface,
        priors.user_id
    from priors
    cross join surfaces
)

select
    people.purpose,
    people.surface,
    people.as_of,
    people.user_id,
    coalesce(vectors.vector, priors.vector) as vector,
    cast(
        coalesce(
            features.user_category_affinity, priors.category_affinity
        ) as {{ type_float_array() }}
    ) as user_category_affinity,
    tastes.vector as taste,
    history.recent_items,
    history.consumed_items,
    {{ feature_names('user', vectors=false, prefix='features.') | join(', ') }}
from people
inner join features
    on
        people.purpose = features.purpose
        and people.user_id = features.user_id
left join history
    on
        people.purpose = history.purpose
        and people.surface = history.surface
        and people.user_id = history.user_id
left join vectors
    on
        people.purpose = vectors.purpose
        and people.user_id = vectors.user_id
left join priors
    on
        people.purpose = priors.purpose
        and people.user_id = priors.user_id
left join tastes
    on
        people.purpose = tastes.purpose
        and people.user_id = tastes.entity_id
