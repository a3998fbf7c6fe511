"""What Feedloop costs, beside the limit and the peers, in one run.

``python -m benchmarks.NAME [--quick] [--out FILE]`` prints a table and writes the
figures as JSON; ``python -m benchmarks`` runs every module of this package. What
they share is in ``benchmarks.support``.
"""
