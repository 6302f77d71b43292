"""Settings that the tests in tests/ and the notebooks in book/ share."""

import os

import pytest
from hypothesis import settings

# The same cases in every run, unless a long search is asked for.
settings.register_profile("quick", max_examples=40, derandomize=True, deadline=None)
settings.register_profile("long", max_examples=2000, deadline=None, print_blob=True)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "quick")
settings.load_profile(PROFILE)


def pytest_collection_modifyitems(config, items):
    """What is marked as long waits for the long search."""
    if PROFILE != "long":
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.hookimpl(trylast=True)
def pytest_collectstart(collector):
    """Leave out of nbval's comparison what differs between machines.

    TensorFlow writes times and process numbers to the error stream. PNG is left out already.
    """
    if hasattr(collector, "skip_compare"):
        collector.skip_compare = (*collector.skip_compare, "stderr", "image/svg+xml")
