"""Tableaux by their order conditions, and the measured order of each method."""

from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
from scipy.integrate import solve_ivp
from trees import residuals, rooted_trees

from node_lib import SOLVERS, RungeKutta, odeint

METHODS = list(SOLVERS.values())


def by_name(method):
    return method.name


def test_there_are_as_many_trees_as_there_must_be():
    # Sloane's A000081
    assert [len(rooted_trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]


@pytest.mark.parametrize("method", METHODS, ids=by_name)
def test_order_conditions_hold_exactly_up_to_the_order_and_not_beyond(method):
    for nodes in range(1, method.order + 1):
        assert set(residuals(method.a, method.b, nodes)) == {0}
    assert set(residuals(method.a, method.b, method.order + 1)) != {0}


@pytest.mark.parametrize("method", METHODS, ids=by_name)
def test_nodes_are_the_row_sums(method):
    assert list(method.c) == [sum(row, Fraction(0)) for row in method.a]


def pendulum(t, z):
    """A nonlinear system that depends on time, on states [batch, 2]."""
    angle, speed = z[..., :1], z[..., 1:]
    return tf.concat([speed, -tf.sin(angle) + tf.cos(2 * t)], axis=-1)


STATES = {
    "tensor": (lambda z: z, pendulum),
    "list": (lambda z: [z, 2 * z], lambda t, z: [pendulum(t, x) for x in z]),
    "nested dict": (
        lambda z: {"a": z, "b": {"c": (3 * z,)}},
        lambda t, z: tf.nest.map_structure(lambda x: pendulum(t, x), z),
    ),
}


def reference(z0):
    """The pendulum at time 2, by SciPy."""

    def func(t, z):
        angle, speed = z.reshape(-1, 2).T
        return np.stack([speed, -np.sin(angle) + np.cos(2 * t)], axis=-1).ravel()

    solution = solve_ivp(func, (0, 2), np.ravel(z0), "DOP853", rtol=1e-13, atol=1e-13)
    return solution.y[:, -1].reshape(-1, 2)


@pytest.mark.parametrize("structure", STATES)
@pytest.mark.parametrize("method", METHODS, ids=by_name)
def test_the_error_falls_with_the_order(method, structure):
    pack, func = STATES[structure]
    z0 = pack(tf.constant([[0.3, 0.2], [1.0, -0.5]], tf.float64))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float64)])
    def solve(times):
        # One step in each interval, so that one trace serves every number of steps.
        z = odeint(func, z0, times, solver=method, steps=1, gradient="backprop")
        return tf.nest.map_structure(lambda x: x[-1], z)

    steps = np.array([20, 40, 80, 160])
    errors = []
    for n in steps:
        ends = zip(
            tf.nest.flatten(solve(np.linspace(0, 2, n + 1))), tf.nest.flatten(z0), strict=True
        )
        errors.append(max(np.abs(end - reference(start)).max() for end, start in ends))
    slope = np.polyfit(np.log(2 / steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(method.order, abs=0.1)


@pytest.mark.parametrize("method", METHODS, ids=by_name)
def test_a_step_is_the_formula_of_the_tableau(method):
    t, h, z = 0.3, 0.1, np.array([[0.4, -0.7], [1.1, 0.2]])
    slopes = []
    for row, node in zip(method.a, method.c, strict=True):
        inner = z + h * sum((float(a) * k for a, k in zip(row, slopes, strict=True)), 0 * z)
        slopes.append(
            pendulum(tf.constant(t + float(node) * h, tf.float64), tf.constant(inner)).numpy()
        )
    expected = z + h * sum(float(b) * k for b, k in zip(method.b, slopes, strict=True))
    np.testing.assert_allclose(method(pendulum, t, h, tf.constant(z)), expected, rtol=1e-14)


def test_each_sample_may_have_its_own_step():
    z = tf.constant([[0.4, -0.7], [1.1, 0.2]], tf.float64)
    h = tf.constant([[0.1], [0.3]], tf.float64)
    both = SOLVERS["rk4"](pendulum, 0.0 * h, h, z)
    for i in range(2):
        alone = SOLVERS["rk4"](pendulum, 0.0, h[i, 0], z[i : i + 1])
        np.testing.assert_allclose(both[i : i + 1], alone, rtol=1e-14)


def test_coefficients_keep_double_precision():
    third = RungeKutta(
        "third",
        1,
        ((), (Fraction(1, 3),)),
        (Fraction(1, 3), Fraction(2, 3)),
        (Fraction(0), Fraction(1, 3)),
    )
    z = third(lambda t, z: tf.ones_like(z), 0.0, 1.0, tf.zeros([1], tf.float64))
    assert float(z[0]) == 1.0
    half = third.stages(
        lambda t, z: t * tf.ones_like(z),
        0.0,
        tf.constant(1.0, tf.float64),
        tf.zeros([1], tf.float64),
    )
    assert float(half[1][0]) == 1 / 3


@pytest.mark.parametrize(
    ("tableau", "words"),
    [
        (dict(a=((), ()), b=(1, 0), c=(0, 0)), "rows of lengths"),
        (dict(a=((),), b=(1,), c=(0, 1)), "nodes c"),
        (dict(a=((),), b=(1,), c=(0,), b_error=(1, 0)), "error weights"),
    ],
)
def test_a_tableau_that_does_not_fit_together_is_refused(tableau, words):
    with pytest.raises(ValueError, match=words):
        RungeKutta("wrong", 1, **tableau)
