-- A feature in code without a row in the registry, or the reverse.
with declared as (
    select
        feature_name,
        'feat_' || entity_type || 's' as relation
    from {{ ref('feature_registry') }}
    where path in ('batch', 'both')
),

built as (
    {% for relation in ['feat_users', 'feat_items'] %}
        {% for column in adapter.get_columns_in_relation(ref(relation)) %}
            {% if column.name.startswith(('user_', 'item_'))
                and column.name not in ('user_id', 'item_id') %}
                select
                    '{{ column.name }}' as feature_name,
                    '{{ relation }}' as relation
                union all
            {% endif %}
        {% endfor %}
    {% endfor %}
    select
        null as feature_name,
        null as relation
)

select
    declared.feature_name as declared_feature,
    built.feature_name as built_feature
from declared
full outer join built
    on
        declared.feature_name = built.feature_name
        and declared.relation = built.relation
where
    (declared.feature_name is null and built.feature_name is not null)
    or built.feature_name is null and declared.feature_name is not null
