{{ config(materialized='view') }}

with source as (
    select * from {{ source('raw', 'dead_letters') }}
),

renamed as (
    select
        stream,
        log_partition,
        log_offset,
        field,
        reason,
        ingested_at,
        load_seq
    from source
)

select * from renamed
