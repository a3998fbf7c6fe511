select
    user_id,
    as_of,
    available_at,
    {{ feature_names('user') | join(', ') }}
from {{ ref('int_user_features') }}
where purpose = 'serving'
