"""flowcore's high-throughput executor. Nothing is imported here: workers import their module alone."""
