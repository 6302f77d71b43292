"""Tableaux by their order conditions, and the measured order of each method."""

from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from scipy.integrate import DOP853, RK23, RK45, solve_ivp
from scipy.integrate._ivp.rk import Dop853DenseOutput
from trees import dense_residuals, residuals, rooted_trees

from node_lib import SOLVERS, RungeKutta, bosh3, dopri5, dopri8, odeint, tsit5

METHODS = list(SOLVERS.values())
PAIRS = [bosh3, dopri5, tsit5, dopri8]

# The coefficients of these two are printed with 30 digits; all others are exact.
TOLERANCE = {"tsit5": 1e-27, "dopri8": 1e-26}
EMBEDDED = {"bosh3": 2, "dopri5": 4, "tsit5": 4, "dopri8": 5}
DENSE = {"bosh3": 3, "dopri5": 4, "tsit5": 4, "dopri8": 7}


def by_name(method):
    return method.name


def test_there_are_as_many_trees_as_there_must_be():
    # Sloane's A000081
    assert [len(rooted_trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]


def worst(residuals):
    return max(map(abs, residuals))


def check_order(a, b, order, tolerance):
    """Conditions that fail, do so by far more than the digits of the coefficients explain."""
    for nodes in range(1, order + 1):
        assert worst(residuals(a, b, nodes)) <= tolerance
    assert worst(residuals(a, b, order + 1)) > 1e-5


@pytest.mark.parametrize("method", METHODS, ids=by_name)
def test_order_conditions_hold_up_to_the_order_and_not_beyond(method):
    check_order(method.a, method.b, method.order, TOLERANCE.get(method.name, 0))


@pytest.mark.parametrize("method", PAIRS, ids=by_name)
def test_the_embedded_method_has_its_order_and_no_more(method):
    embedded = [x - y for x, y in zip(method.b, method.b_error, strict=True)]
    # Hairer prints the error weights of dopri8 with two or three digits less.
    tolerance = 1e-27 if method is dopri8 else TOLERANCE.get(method.name, 0)
    check_order(method.a, embedded, EMBEDDED[method.name], tolerance)


def test_the_second_estimate_of_dopri8_has_order_three():
    embedded = [x - y for x, y in zip(dopri8.b, dopri8.b_error_low, strict=True)]
    assert sum(weight != 0 for weight in embedded) == 3
    check_order(dopri8.a, embedded, 3, TOLERANCE["dopri8"])


def all_stages(method):
    """The rows, weights and nodes of the stages of the step and of its dense output."""
    more = len(method.dense_a)
    return method.a + method.dense_a, method.b + (0,) * more, method.c + method.dense_c


@pytest.mark.parametrize("method", PAIRS, ids=by_name)
def test_dense_output_has_its_order_at_every_theta(method):
    a, order = all_stages(method)[0], DENSE[method.name]
    for nodes in range(1, order + 1):
        residuals = dense_residuals(a, method.dense, nodes)
        assert worst(residuals) <= 10 * TOLERANCE.get(method.name, 0)
    assert worst(dense_residuals(a, method.dense, order + 1)) > 1e-2


@pytest.mark.parametrize("method", PAIRS, ids=by_name)
def test_dense_output_joins_values_and_slopes_at_both_ends(method):
    tolerance = 1e-24 if method.name in TOLERANCE else 0
    last = len(method.b) - 1
    for i, (row, weight) in enumerate(zip(method.dense, all_stages(method)[1], strict=True)):
        assert abs(sum(row) - weight) <= tolerance
        assert row[0] == (i == 0)
        assert abs(sum(n * x for n, x in enumerate(row, start=1)) - (i == last)) <= tolerance


@pytest.mark.parametrize("method", METHODS, ids=by_name)
def test_nodes_are_the_row_sums(method):
    tolerance = 1e-27 if method.name in TOLERANCE else 0
    a, _, c = all_stages(method)
    assert worst([sum(row) - node for row, node in zip(a, c, strict=True)]) <= tolerance


def test_which_methods_are_fsal_and_the_order_of_their_estimate():
    assert [method for method in METHODS if method.fsal] == PAIRS
    assert [method.error_order for method in METHODS] == [None] * 4 + [2, 4, 4, 7]
    assert not replace(dopri5, c=(*dopri5.c[:-1], Fraction(1, 2))).fsal
    assert not replace(dopri5, b=(*dopri5.b[:-1], Fraction(1))).fsal
    assert not replace(dopri5, b=(Fraction(0), *dopri5.b[1:])).fsal


def floats(rows):
    """Rows of fractions, in double precision, with zeros up to the longest."""
    width = max(map(len, rows))
    return np.array([[float(x) for x in row] + [0.0] * (width - len(row)) for row in rows])


@pytest.mark.parametrize(
    ("method", "scipy"), [(bosh3, RK23), (dopri5, RK45), (dopri8, DOP853)], ids=["3", "5", "8"]
)
def test_coefficients_are_scipys(method, scipy):
    def same(mine, theirs):
        np.testing.assert_allclose(floats([mine])[0], theirs, rtol=1e-15, atol=1e-15)

    for row, theirs in zip(method.a[:-1], scipy.A, strict=True):
        same(row, theirs[: len(row)])
    same(method.b, [*scipy.B, 0])
    same(method.c, [*scipy.C, 1])
    if method is dopri8:
        same(method.b_error, scipy.E5)
        same(method.b_error_low, scipy.E3)
        same(method.dense_c, scipy.C_EXTRA)
        for row, theirs in zip(method.dense_a, scipy.A_EXTRA, strict=True):
            same(row, theirs[: len(row)])
    else:
        same([-x for x in method.b_error], scipy.E)  # SciPy subtracts the other way round.
        np.testing.assert_allclose(floats(method.dense), scipy.P, rtol=1e-15)


def test_dense_output_of_dopri8_is_scipys_nested_form():
    """SciPy's interpolant of the slopes 1, 0, ..., 0, then 0, 1, 0, ..., gives b_1, b_2, ..."""
    k, b = np.eye(16), np.array([*DOP853.B, 0, 0, 0, 0])
    nested = np.stack([b, k[0] - b, 2 * b - k[0] - k[12], *DOP853.D])
    theta = np.linspace(0, 1, 11)
    expected = Dop853DenseOutput(0.0, 1.0, np.zeros(16), nested)(theta)
    powers = theta ** np.arange(1, 8)[:, None]
    np.testing.assert_allclose(floats(dopri8.dense) @ powers, expected, atol=1e-12)


def test_dense_output_of_tsit5_is_the_papers():
    """The polynomials as Tsitouras (2011) and Diffrax print them."""
    t = np.linspace(0, 1, 11)
    expected = [
        -1.0530884977290216
        * t
        * (t - 1.3299890189751412)
        * (t**2 - 1.4364028541716351 * t + 0.7139816917074209),
        0.1017 * t**2 * (t**2 - 2.1966568338249754 * t + 1.2949852507374631),
        2.490627285651252793 * t**2 * (t**2 - 2.38535645472061657 * t + 1.57803468208092486),
        -16.54810288924490272 * (t - 1.21712927295533244) * (t - 0.61620406037800089) * t**2,
        47.37952196281928122 * (t - 1.203071208372362603) * (t - 0.658047292653547382) * t**2,
        -34.87065786149660974 * (t - 1.2) * (t - 0.666666666666666667) * t**2,
        2.5 * (t - 1) * (t - 0.6) * t**2,
    ]
    powers = t ** np.arange(1, 5)[:, None]
    np.testing.assert_allclose(floats(tsit5.dense) @ powers, expected, atol=1e-13)


def pendulum(t, z, frequency=2):
    """A nonlinear system that depends on time, on states [batch, 2]."""
    angle, speed = z[..., :1], z[..., 1:]
    return tf.concat([speed, -tf.sin(angle) + tf.cos(frequency * t)], axis=-1)


STATES = {
    "tensor": (lambda z: z, pendulum),
    "list": (lambda z: [z, 2 * z], lambda t, z: [pendulum(t, x) for x in z]),
    "nested dict": (
        lambda z: {"a": z, "b": {"c": (3 * z,)}},
        lambda t, z: tf.nest.map_structure(lambda x: pendulum(t, x), z),
    ),
}


def reference(z0, end, frequency):
    """The pendulum at the end, by SciPy."""

    def func(t, z):
        angle, speed = z.reshape(-1, 2).T
        return np.stack([speed, -np.sin(angle) + np.cos(frequency * t)], axis=-1).ravel()

    solution = solve_ivp(func, (0, end), np.ravel(z0), "DOP853", rtol=1e-13, atol=1e-13)
    return solution.y[:, -1].reshape(-1, 2)


def measured_order(method, func, z0, steps, end, frequency):
    """The slope of log error over log h at the end, with so many steps."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float64)])
    def solve(times):
        # One step in each interval, so that one trace serves every number of steps.
        z = odeint(func, z0, times, solver=method, steps=1, gradient="backprop")
        return tf.nest.map_structure(lambda x: x[-1], z)

    exact = [reference(start, end, frequency) for start in tf.nest.flatten(z0)]
    errors = []
    for n in steps:
        ends = zip(tf.nest.flatten(solve(np.linspace(0, end, n + 1))), exact, strict=True)
        errors.append(max(np.abs(z - z_exact).max() for z, z_exact in ends))
    return np.polyfit(np.log(end / np.array(steps)), np.log(errors), 1)[0]


Z0 = tf.constant([[0.3, 0.2], [1.0, -0.5]], tf.float64)


@pytest.mark.parametrize("structure", STATES)
@pytest.mark.parametrize("method", [m for m in METHODS if m not in PAIRS], ids=by_name)
def test_the_error_falls_with_the_order(method, structure):
    pack, func = STATES[structure]
    order = measured_order(method, func, pack(Z0), [20, 40, 80, 160], end=2, frequency=2)
    assert order == pytest.approx(method.order, abs=0.1)


@pytest.mark.parametrize("method", PAIRS, ids=by_name)
def test_the_error_of_the_pairs_falls_with_the_order(method):
    """Driven faster, and with steps for which the error is neither coarse nor of rounding.

    Of the slow pendulum the methods of order 5 seem to have orders 5.4 and 5.8 down to the last
    digits: their terms in h^5 are made small, so the terms in h^6 are still seen beside them.
    """
    steps = [8, 10, 12, 15] if method is dopri8 else [20, 40, 80]
    order = measured_order(method, partial(pendulum, frequency=8), Z0, steps, end=1, frequency=8)
    assert order == pytest.approx(method.order, abs=0.1)


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


@pytest.mark.parametrize("method", METHODS, ids=by_name)
def test_a_step_evaluates_no_stage_that_it_does_not_need(method):
    calls = []

    def func(t, z):
        calls.append(1)
        return -z

    method(func, 0.0, 0.1, tf.ones([1]))
    assert len(calls) == len(method.b) - method.fsal
    calls.clear()
    assert len(method.stages(func, 0.0, 0.1, tf.ones([1]))) == len(calls) == len(method.b)


@pytest.mark.parametrize("method", PAIRS, ids=by_name)
def test_the_last_slope_is_the_first_of_the_next_step(method):
    z = tf.constant([[0.4, -0.7]], tf.float64)
    last = method.stages(pendulum, 0.3, 0.1, z)[-1]
    after = pendulum(tf.constant(0.4, tf.float64), method(pendulum, 0.3, 0.1, z))
    np.testing.assert_allclose(last, after, rtol=1e-14)


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
        (dict(a=((), ()), b=(1, 0), c=(0, 0)), "rows a of lengths"),
        (dict(a=((),), b=(1,), c=(0, 1)), "nodes c"),
        (dict(a=((),), b=(1,), c=(0,), b_error=(1, 0)), "error weights"),
        (dict(a=((),), b=(1,), c=(0,), b_error_low=()), "error weights"),
        (dict(a=((),), b=(1,), c=(0,), dense_a=((),), dense_c=(1,)), "rows dense_a"),
        (dict(a=((),), b=(1,), c=(0,), dense_a=((1,),)), "nodes dense_c"),
        (dict(a=((),), b=(1,), c=(0,), dense=((1,), (1,))), "rows dense of"),
        (dict(a=((),), b=(1,), c=(0,), dense=()), "rows dense of"),
        (dict(a=((), (1,)), b=(1, 0), c=(0, 1), dense=((1,), (1, 0))), r"lengths \[1, 2\]"),
    ],
)
def test_a_tableau_that_does_not_fit_together_is_refused(tableau, words):
    with pytest.raises(ValueError, match=words):
        RungeKutta("wrong", 1, **tableau)
