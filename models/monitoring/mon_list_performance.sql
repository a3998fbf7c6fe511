select
    cast(shown_at as date) as day,
    surface,
    model_version,
    count(*) as impressions,
    count(*) filter (where is_positive) as positives,
    cast(count(*) filter (where is_positive) as double) / count(*)
        as click_through
from {{ ref('fct_impressions') }}
group by cast(shown_at as date), surface, model_version
