"""flowcore's stager for files on Globus endpoints."""
