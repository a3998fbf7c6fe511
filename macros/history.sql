{#- Point in time: what was known of an entity at an instant. One place for
    training and for the skew report. -#}

{#- The versions of a snapshot with the instant at which the next one became
    available. A version that ended when it began was never known. -#}
{% macro known_versions(snapshot, id) -%}
  select
    *,
    lead(available_at, 1, {{ instant('9999-12-31 00:00:00') }}) over (
      partition by {{ id }} order by available_at, dbt_valid_from
    ) as superseded_at
  from {{ snapshot }}
  where dbt_valid_from < dbt_valid_to
{%- endmacro %}

{#- Joins the version of `known` (rows of known_versions) that could be served at
    `moment`: by available_at, for a value computed earlier may be there later. What
    `only` leaves out has no key: a condition on `base` alone would make DuckDB
    compare every row with every version. -#}
{% macro join_known(known, id, base, moment, only=none) -%}
  {%- set key = base ~ '.' ~ id -%}
  left join {{ known }}
    on
      {{ 'case when ' ~ only ~ ' then ' ~ key ~ ' end' if only else key }}
      = {{ known }}.{{ id }}
      and {{ known }}.available_at <= {{ moment }}
      and {{ known }}.superseded_at > {{ moment }}
{%- endmacro %}

{#- The features that a snapshot keeps, as columns of `known`, defaults filled in. -#}
{% macro known_columns(entity_type, known) -%}
  {%- for name in kept_features(entity_type) %}
  coalesce({{ known }}.{{ name }}, {{ feature_default(name) }}) as {{ name }}
  {{- ',' if not loop.last }}
  {%- endfor -%}
{%- endmacro %}
