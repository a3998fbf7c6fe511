{{ config(materialized='view') }}

with source as (
    select * from {{ source('raw', 'lists') }}
),

renamed as (
    select
        rec_id,
        user_id,
        surface,
        item_ids,
        scores,
        sources,
        propensities,
        pool_sizes,
        expectations,
        reasons,
        reason_values,
        model_version,
        build_id,
        generated_at,
        expires_at
    from source
)

select * from renamed
