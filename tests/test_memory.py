"""The memory of a gradient, measured in processes of their own (measure_memory.py)."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from measure_memory import SHAPE

HERE = pathlib.Path(__file__).parent


def measure(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    run = subprocess.run(
        [sys.executable, HERE / "measure_memory.py", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The bytes of each program, such as "adjoint 10"."""
    return measure("compiled", tmp_path_factory.mktemp("xla"))


@pytest.mark.parametrize("gradient", ["adjoint", "reversible"])
def test_compiled_memory_does_not_grow_with_the_steps(compiled, gradient):
    """All that XLA assigns to the gradient: 10,000 steps against 10, within 5 %."""
    few, many = compiled[f"{gradient} 10"], compiled[f"{gradient} 10000"]
    print(f"{gradient}: {few} bytes at 10 steps, {many} at 10,000")
    assert many < 1.05 * few


def test_compiled_memory_of_checkpoint_is_that_of_its_states(compiled):
    few, many = compiled["checkpoint 10"], compiled["checkpoint 10000"]
    states = (10_000 - 10) * 4 * np.prod(SHAPE["compiled"])
    print(f"checkpoint: {(many - few) / states:.3f} of the states")
    assert 1.0 <= (many - few) / states <= 1.2


@pytest.mark.long
@pytest.mark.parametrize("gradient", ["adjoint", "reversible"])
def test_resident_memory_does_not_grow_with_the_steps(gradient):
    """The peak of a process in a plain graph, at 2,000 steps against 1,000; a state is 128 KiB.

    The first thousand are for the allocator: up to there its arenas grow by some megabytes. Not
    held here: "checkpoint" in a plain graph, which was seen to take two to three times the bytes
    of its states.
    """
    states = 1000 * 4 * np.prod(SHAPE["resident"])
    rises = measure("resident", gradient, 10, 1000, 2000)
    grown = (rises[f"{gradient} 2000"] - rises[f"{gradient} 1000"]) / states
    print(f"{gradient}: grown by {grown:.3f} of the bytes of 1,000 states")
    assert grown < 0.05
