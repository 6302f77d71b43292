"""odeint on the fixed grid, against closed forms."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.linalg import expm

from node_lib import GRADIENTS, RungeKutta, midpoint, odeint, rk4

A = np.array([[-0.3, 1.2], [-0.9, 0.1]])
Z0 = np.array([[1.0, 0.5], [-0.4, 2.0], [0.7, 0.7]])


def linear(t, z):
    return z @ tf.constant(A.T)


def exact(dt, z0=Z0):
    return z0 @ expm(A * dt).T


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("times", [[0.0, 1.0], [0.0, 0.3, 2.0], [1.0, 0.5, -1.0], [2.0, 2.0, 2.5]])
def test_states_at_every_time_forward_and_backward(times, gradient):
    z = odeint(linear, Z0, times, solver="rk4", steps=200, gradient=gradient)
    assert z.shape == (len(times), 3, 2)
    for row, t in zip(z, times, strict=True):
        np.testing.assert_allclose(row, exact(t - times[0]), rtol=1e-9)


def test_the_first_entry_is_the_initial_state():
    z = odeint(linear, Z0, [0.0, 1.0], solver="euler", steps=1)
    np.testing.assert_array_equal(z[0], Z0)


def test_forward_and_back_again_ends_at_the_start():
    z1 = odeint(linear, Z0, [0.0, 1.5], solver="rk4", steps=100)[-1]
    back = odeint(linear, z1, [1.5, 0.0], solver="rk4", steps=100)[-1]
    np.testing.assert_allclose(back, Z0, rtol=1e-8)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_time_reaches_func(gradient):
    z = odeint(
        lambda t, z: tf.cos(t) + 0 * z,
        tf.zeros([1]),
        [0.5, 2.0],
        solver="rk4",
        steps=20,
        gradient=gradient,
    )
    np.testing.assert_allclose(z[-1], np.sin(2.0) - np.sin(0.5), rtol=1e-5)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_each_sample_has_its_own_times(gradient):
    times = np.array([[0.0, 1.0], [1.0, -0.5], [2.0, 2.0]]).T[:, :, None]
    z = odeint(lambda t, z: linear(t, z) * t, Z0, times, solver="rk4", steps=100, gradient=gradient)
    for i in range(3):
        alone = odeint(
            lambda t, z: linear(t, z) * t,
            Z0[i : i + 1],
            times[:, i, 0],
            solver="rk4",
            steps=100,
            gradient=gradient,
        )
        np.testing.assert_allclose(z[:, i : i + 1], alone, rtol=1e-13)
    np.testing.assert_allclose(
        z[-1], np.stack([exact(0.5)[0], exact(-0.375)[1], exact(0.0)[2]]), rtol=1e-7
    )


def test_own_times_pair_with_leaves_of_any_rank():
    times = tf.constant(np.array([[0.0, 0.0], [1.0, 2.0]])[:, :, None])
    z0 = {
        "vector": tf.ones([2], tf.float64),
        "row": tf.ones([2, 3], tf.float64),
        "image": tf.ones([2, 4, 3], tf.float64),
    }
    z = odeint(
        lambda t, z: tf.nest.map_structure(tf.negative, z), z0, times, solver="rk4", steps=40
    )
    for leaf in z.values():
        np.testing.assert_allclose(leaf[-1, 0], np.full(leaf.shape[2:], np.exp(-1)), rtol=1e-7)
        np.testing.assert_allclose(leaf[-1, 1], np.full(leaf.shape[2:], np.exp(-2)), rtol=1e-6)


def test_each_component_may_have_its_own_span():
    span = np.array([[0.5, 1.0], [2.0, -1.0]])
    z = odeint(
        lambda t, z: -z, np.ones((2, 2)), np.stack([0 * span, span]), solver="rk4", steps=100
    )
    np.testing.assert_allclose(z[-1], np.exp(-span), rtol=1e-7)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("structure", [tuple, list])
def test_the_result_has_the_structure_of_the_state(structure, gradient):
    z0 = structure([tf.ones([2, 1]), {"x": tf.ones([3])}])
    z = odeint(
        lambda t, z: tf.nest.map_structure(lambda x: -x, z),
        z0,
        [0.0, 1.0, 2.0],
        solver="heun",
        steps=2,
        gradient=gradient,
    )
    tf.nest.assert_same_structure(z, z0)
    assert z[0].shape == (3, 2, 1) and z[1]["x"].shape == (3, 3)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
def test_the_state_keeps_its_dtype(dtype):
    z = odeint(lambda t, z: -z * t, tf.ones([2], dtype), [0.0, 1.0], solver="rk4", steps=8)
    assert z.dtype == dtype
    np.testing.assert_allclose(
        tf.cast(z[-1], tf.float64), np.exp(-0.5), rtol=2 * {2: 2**-7}.get(dtype.size, 1e-4)
    )


def test_double_precision_is_kept_throughout():
    z = odeint(lambda t, z: -z, tf.ones([1], tf.float64), [0.0, 0.1], solver="rk4", steps=100)
    np.testing.assert_allclose(z[-1], np.exp(-0.1), rtol=1e-14)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_step_function_of_your_own_is_a_solver(gradient):
    def trapezium_by_iteration(func, t, h, z):
        z1 = z
        for _ in range(30):
            z1 = z + h / 2 * (func(t, z) + func(t + h, z1))
        return z1

    z = odeint(
        linear,
        Z0,
        [0.0, 1.0],
        solver=trapezium_by_iteration,
        steps=100,
        gradient=gradient,
    )
    np.testing.assert_allclose(z[-1], exact(1.0), atol=1e-4)


def test_a_tableau_of_your_own_is_a_solver():
    mine = RungeKutta("mine", 2, midpoint.a, midpoint.b, midpoint.c)
    ours, theirs = (odeint(linear, Z0, [0.0, 1.0], solver=s, steps=10) for s in (mine, "midpoint"))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_batch_size_and_number_of_times_may_be_unknown(gradient):
    @tf.function(
        input_signature=[tf.TensorSpec([None, 2], tf.float64), tf.TensorSpec([None], tf.float64)]
    )
    def solve(z0, t):
        z = odeint(linear, z0, t, solver=rk4, steps=50, gradient=gradient)
        return z, tf.gradients(z[-1], z0)[0]

    for batch, count in [(3, 2), (1, 4), (0, 3)]:
        z, g = solve(Z0[:batch], np.linspace(0, 1, count))
        assert z.shape == (count, batch, 2) and g.shape == (batch, 2)
        np.testing.assert_allclose(z[-1], exact(1.0, Z0[:batch]), rtol=1e-7)
