"""Settings of all tests: hypothesis draws the same examples each time, however slow the machine."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("shoal", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("shoal")
