with days as (
    {{ days_up_to_as_of(
        tile=ref('tile_item_days'),
        keys=['item_id'],
        measures=item_measures(),
        columns=['engagements', 'popularity', 'impressions', 'responses'],
    ) }}
),

windows as (
    select
        purpose,
        as_of,
        item_id,
        cast(sum(popularity) filter (where {{ within(1) }}) as bigint)
            as popularity_1d,
        cast(sum(popularity) filter (where {{ within(7) }}) as bigint)
            as popularity_7d,
        cast(sum(popularity) as bigint) as popularity_30d,
        cast(sum(impressions) as bigint) as impressions_30d,
        cast(sum(responses) as bigint) as responses_30d
    from days
    group by purpose, as_of, item_id
),

everything as (
    select
        purpose,
        {{ mean_rate('responses_30d', 'impressions_30d') }} as mean_ctr
    from windows
    group by purpose
)

select
    windows.purpose,
    windows.as_of,
    windows.item_id,
    cast(coalesce(windows.popularity_1d, 0) as double) as item_popularity_1d,
    cast(coalesce(windows.popularity_7d, 0) as double) as item_popularity_7d,
    cast(windows.popularity_30d as double) as item_popularity_30d,
    cast(windows.impressions_30d as double) as item_impressions_30d,
    {{ smoothed_rate(
        'windows.responses_30d', 'windows.impressions_30d',
        'everything.mean_ctr'
    ) }} as item_ctr_30d
from windows
inner join everything on windows.purpose = everything.purpose
