"""Settings that the tests in tests/ and the notebooks in book/ share."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collectstart(collector):
    """Leave out of nbval's comparison what differs between machines: the error stream, and pictures (PNG is its own rule)."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare = (*collector.skip_compare, "stderr", "image/svg+xml")
