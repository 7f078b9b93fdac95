"""The report: one HTML page from what the stages left on disk."""
