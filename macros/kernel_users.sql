{% macro copy_kernel_users(surface, path) -%}
  {#- What the kernel was given for that surface's lists, for who asks the kernel
      again outside of dbt: nobody else opens the warehouse. -#}
  {%- if execute -%}
    {%- do run_query(
        "copy (select * from " ~ ref('emb_kernel_users') ~ " where purpose ="
        ~ " 'serving' and surface = '" ~ surface ~ "' order by user_id) to '"
        ~ path ~ "' (format parquet)"
    ) -%}
  {%- endif -%}
{%- endmacro %}
