"""Commands to look and to check: plan, verify, inspect, sql."""
