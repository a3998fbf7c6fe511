{{ config(materialized='view') }}

with source as (
    select * from {{ source('raw', 'feature_log') }}
),

renamed as (
    select
        rec_id,
        build_id,
        generated_at,
        feature_names,
        user_values,
        candidate_values
    from source
)

select * from renamed
