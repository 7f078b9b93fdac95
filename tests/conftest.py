"""Settings that every test shares."""

from __future__ import annotations

from hypothesis import settings

# a slow or busy machine is no failure, and a found example must be found again
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")
