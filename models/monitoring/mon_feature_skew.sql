{{ config(materialized='table') }}

-- What lists were scored with beside what the history says was known then. The
-- log holds 32-bit floats: the history's values are rounded to that first.
{% set kept = kept_features('user') + kept_features('item') %}

with pairs as (
    select
        known.*,
        scored.feature_names,
        scored.feature_values
    from {{ ref('train_logged_features') }} as scored
    inner join {{ ref('train_known_features') }} as known
        on scored.event_id = known.event_id
    where known.item_available_at is not null
),

compared as (
    {% for name in kept %}
        select
            '{{ name }}' as feature_name,
            cast({{ name }} as float) as known_value,
            {{ array_at(
                'feature_values', array_place('feature_names', "'" ~ name ~ "'")
            ) }} as logged_value
        from pairs
        {{ 'union all' if not loop.last }}
    {% endfor %}
),

differences as (
    select
        feature_name,
        abs(cast(logged_value as double) - cast(known_value as double))
            as difference
    from compared
    where logged_value is not null
)

select
    feature_name,
    cast(count(*) as bigint) as pairs,
    cast(count(*) filter (where difference = 0) as double) / count(*)
        as equal_share,
    max(difference) as max_difference,
    median(difference) as median_difference
from differences
group by feature_name
