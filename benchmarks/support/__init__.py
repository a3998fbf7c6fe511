"""What the benchmarks share: measuring, reporting, environments of peers."""
