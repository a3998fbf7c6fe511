{{ config(materialized='view') }}

with source as (
    select * from {{ source('raw', 'feature_log_items') }}
),

renamed as (
    select
        build_id,
        generated_at,
        item_id,
        item_values
    from source
)

select * from renamed
