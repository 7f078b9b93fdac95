"""The statistics under stage two: exact quantiles, moments, mixtures, reliability."""
