with source as (
    select * from {{ source('raw', 'users') }}
),

numbered as (
    select
        *,
        row_number() over (
            partition by user_id
            order by ingested_at desc, log_partition desc, log_offset desc
        ) as version_from_newest
    from source
),

newest_versions as (
    select
        user_id,
        created_at,
        country,
        segment,
        device,
        referral_source,
        declared_preferences,
        metadata,
        ingested_at
    from numbered
    where version_from_newest = 1
)

select * from newest_versions
