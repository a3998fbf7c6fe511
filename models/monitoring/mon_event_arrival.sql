select
    occurred_on as day,
    event_type,
    count(*) as events,
    count(distinct user_id) as users,
    max(
        {{ seconds_between('occurred_at', 'ingested_at') }}
    ) as max_lateness_seconds,
    max(ingested_at) as newest_ingested_at
from {{ ref('stg_events') }}
group by occurred_on, event_type
