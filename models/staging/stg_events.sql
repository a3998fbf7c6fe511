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
        cast(occurred_at as date) as occurred_on,
        row_number() over (
            partition by event_id, cast(occurred_at as date)
            order by load_seq, log_partition, log_offset
        ) as occurrence
    from source
),

-- The loader stores an event once; this holds if a table was ever repaired by
-- hand. What was appended twice has one instant: only the days of what is new
-- are read, however long the history.
earlier as (
    {% if is_incremental() %}
        select
            event_id,
            occurred_on
        from {{ this }}
        where occurred_on in (select occurred_on from numbered)
    {% else %}
        select
            event_id,
            occurred_on
        from numbered
        where false
    {% endif %}
),

first_occurrences as (
    select numbered.*
    from numbered
    left join earlier
        on
            numbered.event_id = earlier.event_id
            and numbered.occurred_on = earlier.occurred_on
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
        first_occurrences.occurred_on,
        first_occurrences.ingested_at,
        first_occurrences.log_partition,
        first_occurrences.log_offset,
        first_occurrences.load_seq
    from first_occurrences
    inner join event_types
        on first_occurrences.event_type = event_types.event_type
)

select * from renamed
