"""Wrong input is refused at once, in a sentence: the argument, what it was, what it must be."""

import numpy as np
import pytest
import tensorflow as tf

from node_lib import odeint

GOOD = {
    "func": lambda t, z: -z,
    "z0": np.ones((3, 2)),
    "t": [0.0, 1.0],
    "solver": "rk4",
    "steps": 4,
}


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"solver": "rk5"}, ValueError, "solver is 'rk5': it must be one of euler, midpoint"),
        ({"solver": 5}, TypeError, "solver is 5: it must be one of euler"),
        ({"gradient": "tape"}, ValueError, "gradient is 'tape': it must be one of backprop"),
        ({"steps": None}, ValueError, "steps is None, and the solver rk4 has no error estimate"),
        ({"steps": 0}, ValueError, "steps is 0: it must be at least 1"),
        ({"steps": True}, TypeError, "steps is True: it must be a whole number"),
        ({"t": [0.0]}, ValueError, "t holds 1 time"),
        ({"t": 1.0}, ValueError, r"t has shape \(\)"),
        ({"t": [0.0, 1.0, 0.5]}, ValueError, "t goes forward and then back"),
        ({"t": [0.0, np.inf]}, ValueError, "t has a time that is NaN or infinite"),
        ({"t": [np.nan, 1.0]}, ValueError, "t has a time that is NaN or infinite"),
        ({"t": np.zeros((2, 4, 1))}, ValueError, r"shape \[T, batch, 1\]"),
        ({"t": np.zeros((2, 3))}, ValueError, r"shape \[T, batch, 1\]"),
        (
            {"t": np.zeros((2, 3, 2, 1)) + 0.0, "z0": np.ones(3)},
            ValueError,
            r"shape \[T, batch, 1\]",
        ),
        ({"t": tf.constant([0.0, 1.0])}, TypeError, "t has dtype float32 and z0 has float64"),
        ({"z0": [1, 2]}, TypeError, "structure of bare numbers"),
        ({"z0": []}, ValueError, "z0 holds no tensor"),
        ({"z0": np.ones(3, int)}, TypeError, "z0 has a tensor of dtype int64"),
        ({"z0": np.ones(3, complex)}, TypeError, "z0 has a tensor of dtype complex128"),
        (
            {"z0": [np.ones(3), np.ones(3, "float32")]},
            TypeError,
            "mixes the dtypes float32, float64",
        ),
        ({"z0": np.array([1.0, np.nan])}, ValueError, "z0 has a value that is NaN or infinite"),
        ({"z0": np.array([1.0, -np.inf])}, ValueError, "z0 has a value that is NaN or infinite"),
        ({"func": lambda t, z: [z]}, ValueError, "another structure than z"),
        (
            {"func": lambda t, z: z[:, :1]},
            ValueError,
            r"returned shape \(3, 1\) for a state of shape \(3, 2\)",
        ),
        ({"func": lambda t, z: tf.cast(z, tf.float32)}, TypeError, "returned dtype float32"),
        ({"func": lambda t, z: None}, ValueError, "another structure than z"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_wrong_input_is_refused(wrong, error, words, gradient):
    arguments = {**GOOD, "gradient": gradient, **wrong}
    with pytest.raises(error, match=words):
        odeint(arguments.pop("func"), arguments.pop("z0"), arguments.pop("t"), **arguments)


@pytest.mark.parametrize(
    ("z0", "t", "words"),
    [
        ([1.0, np.nan], [0.0, 1.0], "z0 has a value"),
        ([1.0, 1.0], [0.0, 1.0, 0.5], "t goes forward"),
    ],
)
def test_values_that_a_graph_learns_only_when_it_runs_are_refused_then(z0, t, words):
    @tf.function
    def solve(z0, t):
        return odeint(lambda t, z: -z, z0, t, solver="rk4", steps=2)

    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        solve(tf.constant(z0), tf.constant(t))
