"""Feedloop: a warehouse-native recommendation data pipeline.

This package holds what every other package may import: contracts, settings,
typed errors, the clock and telemetry. It imports none of them, except in
``feedloop.cli``, whose sub-modules put the parts together.
"""

__version__ = "0.1.0"
