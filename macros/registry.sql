{#- The batch features by the model that computes them, in the registry's order.
    Every model that gathers features walks these; a test holds them against the
    registry. -#}

{% macro features_of(entity_type) -%}
  {%- set models = {
      'user': {
          'feat_user_activity': [
              'user_events_7d',
              'user_active_days_30d',
              'user_impressions_30d',
              'user_ctr_30d',
              'user_dwell_7d_ms',
              'user_sessions_7d',
              'user_hours_since_engaged',
          ],
          'feat_user_confidence': ['user_is_little_known'],
          'feat_user_category_affinity': ['user_category_affinity'],
      },
      'item': {
          'feat_item_trending': [
              'item_trending',
              'item_trending_1h',
              'item_trending_10m',
          ],
          'feat_item_popularity': [
              'item_popularity_1d',
              'item_popularity_7d',
              'item_popularity_30d',
              'item_impressions_30d',
              'item_ctr_30d',
          ],
          'feat_item_age': ['item_age_days'],
      },
  } -%}
  {{ return(models[entity_type]) }}
{%- endmacro %}

{#- Names of all features of an entity, after `prefix`; `vectors=false` leaves out
    those with one element a category, which have no default of their own. -#}
{% macro feature_names(entity_type, vectors=true, prefix='') -%}
  {%- set names = [] -%}
  {%- for of_model in features_of(entity_type).values() -%}
    {%- for name in of_model if vectors or not is_vector(name) -%}
      {%- do names.append(prefix ~ name) -%}
    {%- endfor -%}
  {%- endfor -%}
  {{ return(names) }}
{%- endmacro %}

{% macro is_vector(name) -%}
  {{ return(name in ['user_category_affinity']) }}
{%- endmacro %}

{#- Features that the snapshots keep, but for vectors: not those that follow from
    other columns and the hour. -#}
{% macro kept_features(entity_type) -%}
  {%- set left_out = [
      'user_hours_since_engaged',
      'item_trending',
      'item_trending_1h',
      'item_trending_10m',
      'item_age_days',
  ] -%}
  {{ return(
      feature_names(entity_type, vectors=false) | reject('in', left_out) | list
  ) }}
{%- endmacro %}

{#- The columns of an entity's features, defaults filled in, from the models
    that `join_features` joins. -#}
{% macro feature_columns(entity_type) -%}
  {%- for model, names in features_of(entity_type).items() -%}
    {%- for name in names %}
    {% if is_vector(name) -%}
      {{ model }}.{{ name }}
    {%- else -%}
      coalesce({{ model }}.{{ name }}, {{ feature_default(name) }}) as {{ name }}
    {%- endif -%}
    {{ ',' if not loop.last }}
    {%- endfor -%}
    {{ ',' if not loop.last }}
  {%- endfor -%}
{%- endmacro %}

{#- Left joins of every feature model of an entity on instant and id. `base` has
    the columns purpose and user_id or item_id. -#}
{% macro join_features(entity_type, base, instants='') -%}
  {%- for model in features_of(entity_type) %}
  left join {{ ref(model) }} as {{ model }}
    on
      {{ instants or base }}.purpose = {{ model }}.purpose
      and {{ base }}.{{ entity_type }}_id = {{ model }}.{{ entity_type }}_id
  {%- endfor -%}
{%- endmacro %}
