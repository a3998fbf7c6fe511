{{ config(materialized='view') }}

with scored_lists as (
    select * from {{ ref('rec_scored_lists') }}
),

build as (
    select * from {{ ref('rec_build') }}
)

select
    scored_lists.rec_id,
    build.build_id,
    build.as_of as generated_at,
    build.feature_names,
    scored_lists.user_values,
    scored_lists.candidate_values
from scored_lists
cross join build
