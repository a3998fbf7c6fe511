-- The catalogue's segment where it has one; else how often somebody comes.
with people as (
    select * from {{ ref('int_user_features') }}
),

users as (
    select * from {{ ref('stg_users') }}
)

select
    people.purpose,
    people.as_of,
    people.user_id,
    case
        when users.segment is not null then users.segment
        when
            users.created_at
            > {{ days_before('people.as_of', var('new_user_days')) }}
            then 'new'
        when people.user_active_days_30d >= {{ var('power_active_days') }}
            then 'power'
        when people.user_active_days_30d >= {{ var('regular_active_days') }}
            then 'regular'
        else 'casual'
    end as segment
from people
left join users on people.user_id = users.user_id
