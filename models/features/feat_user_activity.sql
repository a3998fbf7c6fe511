with days as (
    {{ days_up_to_as_of(
        tile=ref('tile_user_days'),
        keys=['user_id'],
        measures=user_measures(),
        columns=[
            'events',
            'engagements',
            'impressions',
            'responses',
            'dwell_ms',
            'dwells',
            'sessions',
            'last_engaged_at',
        ],
    ) }}
),

windows as (
    select
        purpose,
        as_of,
        user_id,
        cast(sum(engagements) filter (where {{ within(7) }}) as bigint)
            as engagements_7d,
        cast(count(distinct day) as bigint) as active_days_30d,
        cast(sum(impressions) as bigint) as impressions_30d,
        cast(sum(responses) as bigint) as responses_30d,
        cast(sum(dwell_ms) filter (where {{ within(7) }}) as bigint)
            as dwell_ms_7d,
        cast(sum(dwells) filter (where {{ within(7) }}) as bigint)
            as dwells_7d,
        cast(sum(sessions) filter (where {{ within(7) }}) as bigint)
            as sessions_7d,
        max(last_engaged_at) as last_engaged_at
    from days
    group by purpose, as_of, user_id
),

everyone as (
    select
        purpose,
        {{ mean_rate('responses_30d', 'impressions_30d') }} as mean_ctr
    from windows
    group by purpose
)

select
    windows.purpose,
    windows.as_of,
    windows.user_id,
    cast(coalesce(windows.engagements_7d, 0) as double) as user_events_7d,
    cast(windows.active_days_30d as double) as user_active_days_30d,
    cast(windows.impressions_30d as double) as user_impressions_30d,
    {{ smoothed_rate(
        'windows.responses_30d', 'windows.impressions_30d', 'everyone.mean_ctr'
    ) }} as user_ctr_30d,
    coalesce(
        cast(windows.dwell_ms_7d as double) / nullif(windows.dwells_7d, 0), 0
    ) as user_dwell_7d_ms,
    cast(coalesce(windows.sessions_7d, 0) as double) as user_sessions_7d,
    cast(
        floor(
            {{ seconds_between('windows.last_engaged_at', 'windows.as_of') }}
            / 3600
        ) as double
    ) as user_hours_since_engaged
from windows
inner join everyone on windows.purpose = everyone.purpose
