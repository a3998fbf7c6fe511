-- The gate against training/serving skew: what lists were scored with is what
-- the history knew, but for a share that skew_equal_share allows.
select
    feature_name,
    pairs,
    equal_share,
    max_difference,
    median_difference
from {{ ref('mon_feature_skew') }}
where
    pairs >= {{ var('skew_min_pairs') }}
    and equal_share < {{ var('skew_equal_share') }}
