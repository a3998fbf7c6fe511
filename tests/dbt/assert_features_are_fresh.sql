-- The gate: features computed from data older than the registry promises must
-- not make new lists. What depends on the features is skipped.
with newest_event as (
    select max(events.ingested_at) as ingested_at
    from {{ ref('stg_events') }} as events
    cross join {{ ref('int_as_of') }} as instants
    where
        instants.purpose = 'serving'
        and events.occurred_at <= instants.as_of
)

select
    registry.feature_name,
    registry.owner,
    registry.freshness_hours,
    newest_event.ingested_at
from {{ ref('feature_registry') }} as registry
cross join newest_event
cross join {{ ref('int_as_of') }} as instants
where
    instants.purpose = 'serving'
    and instants.as_of > {{ hours_after(
        'newest_event.ingested_at', 'registry.freshness_hours'
    ) }}
    and exists (select 1 from {{ ref('feat_items') }})
    and exists (select 1 from {{ ref('feat_users') }})
