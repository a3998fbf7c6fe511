"""Real services for tests: started here, on free ports, and stopped again."""
