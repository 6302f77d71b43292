"""Settings that the tests in tests/ and the notebooks in book/ share."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collectstart(collector):
    """Leave out of nbval's comparison what differs between machines.

    TensorFlow writes times and process numbers to the error stream. PNG is left out already.
    """
    if hasattr(collector, "skip_compare"):
        collector.skip_compare = (*collector.skip_compare, "stderr", "image/svg+xml")
