{{ config(
    materialized='incremental',
    incremental_strategy='append',
) }}

with source as (
    select * from {{ source('raw', 'events') }}
    {% if is_incremental() %}
        where load_seq > (select coalesce(max(load_seq), -1) from {{ this }})
    {% endif %}
),

event_types as (
    select * from {{ ref('event_types') }}
),

numbered as (
    select
        *,
        row_number() over (
            partition by event_id
            order by load_seq, log_partition, log_offset
        ) as occurrence
    from source
),

earlier as (
    {% if is_incremental() %}
        select event_id from {{ this }}
    {% else %}
        select event_id from source
        where false
    {% endif %}
),

-- The loader stores an event once; this holds if a table was ever repaired by
-- hand.
first_occurrences as (
    select numbered.*
    from numbered
    left join earlier on numbered.event_id = earlier.event_id
    where numbered.occurrence = 1 and earlier.event_id is null
),

renamed as (
    select
        -- ids
        first_occurrences.event_id,
        first_occurrences.user_id,
        first_occurrences.item_id,
        first_occurrences.session_id,
        first_occurrences.request_id,
        first_occurrences.rec_id,

        -- what happened
        first_occurrences.event_type,
        event_types.role,
        event_types.weight,
        event_types.half_life_days,
        event_types.is_label,
        first_occurrences.event_value,
        first_occurrences.dwell_time_ms,

        -- where
        first_occurrences.device,
        first_occurrences.surface,
        first_occurrences.page_position,
        first_occurrences.model_version,

        -- when
        first_occurrences.occurred_at,
        cast(first_occurrences.occurred_at as date) as occurred_on,
        first_occurrences.ingested_at,
        first_occurrences.log_partition,
        first_occurrences.log_offset,
        first_occurrences.load_seq
    from first_occurrences
    inner join event_types
        on first_occurrences.event_type = event_types.event_type
)

select * from renamed
