with scored_lists as (
    select * from {{ ref('rec_scored_lists') }}
),

build as (
    select * from {{ ref('rec_build') }}
),

surfaces as (
    select * from {{ ref('surfaces') }}
)

select
    scored_lists.rec_id,
    scored_lists.user_id,
    scored_lists.surface,
    scored_lists.item_ids,
    scored_lists.scores,
    scored_lists.sources,
    scored_lists.propensities,
    scored_lists.pool_sizes,
    scored_lists.expectations,
    scored_lists.reasons,
    scored_lists.reason_values,
    build.model_version,
    build.build_id,
    build.as_of as generated_at,
    {{ hours_after('build.as_of', 'surfaces.ttl_hours') }} as expires_at
from scored_lists
cross join build
inner join surfaces on scored_lists.surface = surfaces.surface
