"""A simulated app: people with hidden tastes who use Feedloop over HTTP.

It is a client like any other. Nothing of what it hides (tastes, qualities, how
people choose) reaches the pipeline, except through public attributes that hint
at it and through what people do.
"""
