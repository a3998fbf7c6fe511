select
    cast(ingested_at as date) as day,
    stream,
    field,
    reason,
    count(*) as messages
from {{ ref('stg_dead_letters') }}
group by cast(ingested_at as date), stream, field, reason
