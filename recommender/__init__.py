"""The mathematics: embeddings, candidates, ranking, lists, evaluation.

Arrow and NumPy in and out. Nothing here knows a warehouse, a log or a store,
reads a clock or draws a number without a seed.
"""
