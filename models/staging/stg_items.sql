with source as (
    select * from {{ source('raw', 'items') }}
),

numbered as (
    select
        *,
        row_number() over (
            partition by item_id
            order by ingested_at desc, log_partition desc, log_offset desc
        ) as version_from_newest
    from source
),

newest_versions as (
    select
        item_id,
        category,
        published_at,
        is_active,
        title,
        description,
        tags,
        metadata,
        ingested_at
    from numbered
    where version_from_newest = 1
)

select * from newest_versions
