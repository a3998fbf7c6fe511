"""The way in: HTTP, files and public datasets into the event log, and from
the log into Iceberg, exactly once."""
