"""Gradients of every mode: closed forms, each other, finite differences, eager, graph and XLA."""

import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.linalg import expm, expm_frechet

from node_lib import GRADIENTS, odeint, reversible, rk4
from node_lib.fixed_grid import FixedGrid

EXACT = ["backprop", "checkpoint"]
RUNS = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}


def gradients(loss, sources):
    with tf.GradientTape() as tape:
        tape.watch(sources)
        value = loss()
    return tape.gradient(value, sources)


# A linear ODE, dz/dt = A z, whose every gradient has a closed form.
A = np.array([[-0.3, 1.2], [-0.9, 0.1]])
Z0 = np.array([[1.0, 0.5], [-0.4, 2.0], [0.7, 0.7]])
WEIGHTS = np.array([[0.2, -1.0], [0.5, 0.3], [1.0, 0.8]])


def linear_closed_form(t0, dts):
    """Gradients of sum(WEIGHTS * z(t0 + dt)) with one dt for each sample."""
    z0_grads, dt_grads, A_grad = [], [], np.zeros((2, 2))
    for z0, w, dt in zip(Z0, WEIGHTS, dts, strict=True):
        flow = expm(A * dt)
        z0_grads.append(flow.T @ w)
        dt_grads.append(w @ A @ flow @ z0)
        # <w, L(A dt, E dt) z0> is <L(A^T dt, w z0^T) dt, E> for the Frechet derivative L.
        A_grad += expm_frechet(A.T * dt, np.outer(w, z0), compute_expm=False) * dt
    return np.array(z0_grads), np.array(dt_grads), A_grad


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_closed_form_with_shared_times(gradient, run):
    matrix = tf.Variable(A)

    @RUNS[run]
    def solve(z0, t):
        def loss():
            z = odeint(
                lambda t, z: z @ tf.transpose(matrix),
                z0,
                t,
                solver="rk4",
                steps=96,
                gradient=gradient,
            )
            return tf.reduce_sum(WEIGHTS * z[-1])

        return gradients(loss, [z0, t, matrix])

    for times in ([0.2, 1.1], [1.1, 0.2]):
        g_z0, g_t, g_A = solve(tf.constant(Z0), tf.constant(times, tf.float64))
        z0_exact, dt_exact, A_exact = linear_closed_form(times[0], [times[1] - times[0]] * 3)
        np.testing.assert_allclose(g_z0, z0_exact, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(g_t, [-dt_exact.sum(), dt_exact.sum()], rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(g_A, A_exact, rtol=1e-8)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_closed_form_with_a_time_span_for_each_sample(gradient):
    matrix = tf.Variable(A)
    z0, dt = tf.constant(Z0), tf.constant([[0.5], [1.0], [-0.7]], tf.float64)

    def loss():
        t = tf.stack([0.3 * tf.ones_like(dt), 0.3 + dt])
        z = odeint(
            lambda t, z: z @ tf.transpose(matrix), z0, t, solver="rk4", steps=80, gradient=gradient
        )
        return tf.reduce_sum(WEIGHTS * z[-1])

    g_z0, g_dt, g_A = gradients(loss, [z0, dt, matrix])
    z0_exact, dt_exact, A_exact = linear_closed_form(0.3, dt[:, 0].numpy())
    np.testing.assert_allclose(g_z0, z0_exact, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(g_dt[:, 0], dt_exact, rtol=1e-8)
    np.testing.assert_allclose(g_A, A_exact, rtol=1e-8)


# A nonlinear network that depends on time. No closed form: the modes are held against each other.
rng = np.random.default_rng(3)
V1 = tf.Variable(rng.normal(size=(3, 8)))
V2 = tf.Variable(rng.normal(size=(8, 2)) / 2)
COTANGENTS = rng.normal(size=(3, 4, 2))
START = tf.constant(rng.normal(size=(4, 2)))


def network(t, z):
    t = t * tf.ones_like(z[:, :1])
    return tf.tanh(tf.concat([z, t], axis=1) @ V1) @ V2


def network_gradients(gradient, steps, t, solver="rk4"):
    """Gradients of a loss of all states, that at t[0] and one in between included."""

    @tf.function
    def solve(z0, t):
        def loss():
            z = odeint(network, z0, t, solver=solver, steps=steps, gradient=gradient)
            return tf.reduce_sum(COTANGENTS * z)

        return gradients(loss, [z0, t, V1, V2])

    return [g.numpy() for g in solve(START, t)]


TIMES = {
    "shared": tf.constant([0.0, 0.4, 1.5], tf.float64),
    "backward": tf.constant([1.0, 0.6, -0.5], tf.float64),
    "own": tf.constant(np.cumsum(rng.uniform(-0.2, 1, size=(3, 4, 1)) ** 2, axis=0)),
}


@pytest.mark.parametrize("times", TIMES)
def test_reversible_is_backprop_through_the_same_scheme(times):
    grid = FixedGrid(lambda t, z: [network(t, z[0])], rk4, 7, lambda z: z[0])

    @tf.function
    def solve(z0, t):
        def loss():
            y, _ = reversible.states(grid, [z0], t)
            return tf.reduce_sum(COTANGENTS * y[0])

        return gradients(loss, [z0, t, V1, V2])

    exact = solve(START, TIMES[times])
    for a, b in zip(exact, network_gradients("reversible", 7, TIMES[times]), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("times", TIMES)
def test_checkpoint_is_backprop(times):
    for exact, ours in zip(*(network_gradients(g, 7, TIMES[times]) for g in EXACT), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("solver", "order", "times"),
    [
        ("euler", 1, "own"),
        ("midpoint", 2, "backward"),
        ("heun", 2, "own"),
        ("rk4", 4, "shared"),
        ("rk4", 4, "backward"),
        ("rk4", 4, "own"),
    ],
)
def test_adjoint_tends_to_the_exact_gradient_at_the_order_of_the_solver(solver, order, times):
    differences = []
    for steps in (40, 80):
        exact, adjoint = (
            network_gradients(g, steps, TIMES[times], solver) for g in ("checkpoint", "adjoint")
        )
        differences.append([np.abs(a - b).max() for a, b in zip(exact, adjoint, strict=True)])
    for coarse, fine in np.transpose(differences):
        assert np.log2(coarse / fine) > order - 0.35


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_finite_differences_of_times(gradient):
    """Every entry of t, by central differences of the same scheme."""
    t = TIMES["shared"].numpy()

    @tf.function
    def loss(t):
        z = odeint(network, START, t, solver="rk4", steps=40, gradient="backprop")
        return tf.reduce_sum(COTANGENTS * z)

    numeric = [(loss(t + e) - loss(t - e)) / 2e-5 for e in 1e-5 * np.eye(3)]
    np.testing.assert_allclose(
        network_gradients(gradient, 40, TIMES["shared"])[1], numeric, rtol=1e-6
    )


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_structured_states(gradient):
    z0 = {"p": tf.constant([1.0, 0.5], tf.float64), "q": [tf.constant([[0.2], [0.1]], tf.float64)]}
    rate = tf.Variable(0.7, dtype=tf.float64)

    def func(t, z):
        return {"p": rate * z["q"][0][:, 0], "q": [-z["p"][:, None] * t]}

    def loss():
        z = odeint(func, z0, [0.0, 1.0], solver="rk4", steps=40, gradient=gradient)
        return tf.reduce_sum(z["p"][-1]) + tf.reduce_sum(z["q"][0] ** 2)

    found = gradients(loss, {"z0": z0, "rate": rate})
    e = tf.constant(1e-5, tf.float64)
    rate.assign_add(e)
    above = loss()
    rate.assign_sub(2 * e)
    numeric = (above - loss()) / (2 * e)
    np.testing.assert_allclose(found["rate"], numeric, rtol=1e-6)
    assert found["z0"]["q"][0].shape == (2, 1)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_two_solves_in_one_model_and_one_dynamics_used_twice(gradient, run):
    a, b = tf.Variable(0.5, dtype=tf.float64), tf.Variable(-0.8, dtype=tf.float64)

    def solve(rate, z):
        return odeint(
            lambda t, z: rate * z, z, [0.0, 1.0], solver="rk4", steps=40, gradient=gradient
        )[-1]

    @RUNS[run]
    def grads(z0):
        return gradients(lambda: tf.reduce_sum(solve(a, solve(b, solve(a, z0)))), [a, b, z0])

    # z1 = exp(2 a + b) z0
    g_a, g_b, g_z0 = grads(tf.constant([1.5], tf.float64))
    z1 = 1.5 * np.exp(0.2)
    np.testing.assert_allclose([g_a, g_b, g_z0[0]], [2 * z1, z1, z1 / 1.5], rtol=1e-8)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_tensors_that_func_closes_over_get_their_gradient(gradient, run):
    frozen = tf.Variable(0.5, trainable=False, dtype=tf.float64)

    @RUNS[run]
    def grads(rate, offset):
        def loss():
            scaled = 2 * rate
            func = lambda t, z: scaled * z + offset * frozen  # noqa: E731
            return tf.reduce_sum(
                odeint(func, z0, [0.0, 1.0], solver="rk4", steps=60, gradient=gradient)[-1]
            )

        return gradients(loss, [rate, offset, frozen])

    z0 = tf.constant([1.0], tf.float64)
    g = grads(tf.constant(0.4, tf.float64), tf.constant([0.3], tf.float64))
    # z1 = e^r (1 + q / r) - q / r with r = 0.8, q = 0.15
    r, q, e = 0.8, 0.15, np.exp(0.8)
    by_r, by_q = e * (1 + q / r) - (e - 1) * q / r**2, (e - 1) / r
    np.testing.assert_allclose([g[0], g[1][0], g[2]], [2 * by_r, 0.5 * by_q, 0.3 * by_q], rtol=1e-7)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_variable_that_does_not_matter_gets_zero(gradient):
    unused = tf.Variable(1.0)
    z0 = tf.ones([2])
    g = gradients(
        lambda: odeint(
            lambda t, z: z + 0 * unused, z0, [0.0, 1.0], solver="rk4", steps=2, gradient=gradient
        )[-1],
        [unused],
    )
    assert float(g[0]) == 0


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_rare_gradient_of_an_embedding(gradient):
    """tf.gather gives IndexedSlices: they must be added up like any other gradient."""
    table = tf.Variable([[0.5], [1.0]])
    z0 = tf.ones([1, 1])
    g = gradients(
        lambda: odeint(
            lambda t, z: tf.gather(table, [1]) * z,
            z0,
            [0.0, 1.0],
            solver="rk4",
            steps=20,
            gradient=gradient,
        )[-1],
        [table],
    )
    np.testing.assert_allclose(tf.convert_to_tensor(g[0]), [[0], [np.e]], rtol=1e-5)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("run", RUNS)
def test_second_derivatives_are_right_or_refused(gradient, run):
    z0 = tf.constant([1.0, 2.0], tf.float64)

    @RUNS[run]
    def second():
        def first():
            return gradients(
                lambda: tf.reduce_sum(
                    odeint(
                        lambda t, z: -(z**2),
                        z0,
                        [0.0, 1.0],
                        solver="rk4",
                        steps=10,
                        gradient=gradient,
                    )[-1]
                ),
                z0,
            )

        return gradients(first, z0)

    if gradient == "backprop":  # z1 = z0 / (1 + z0), its second derivative -2 / (1 + z0)^3
        np.testing.assert_allclose(second(), -2 / (1 + z0.numpy()) ** 3, rtol=1e-3)
    else:
        with pytest.raises(NotImplementedError, match="backprop"):
            second()


def test_an_eager_tape_does_not_keep_the_inside_of_the_solve():
    """The tape must hold one operation for the solve, not thousands."""
    alive = []

    def step(func, t, h, z):
        z1 = z + h * func(t, z)
        alive.append(weakref.ref(z1))
        return z1

    z0 = tf.ones([4])
    with tf.GradientTape() as tape:
        tape.watch(z0)
        z = odeint(lambda t, z: -z * t, z0, [0.0, 1.0], solver=step, steps=20, gradient="adjoint")
        kept = sum(ref() is not None for ref in alive)
    assert len(alive) == 20 and kept <= 2
    assert tape.gradient(z, z0) is not None


def test_adjoint_memory_does_not_grow_with_the_number_of_steps():
    """Temporary memory of the compiled gradient, as XLA's buffer assignment states it."""

    def temporary_bytes(gradient, steps):
        @tf.function(jit_compile=True)
        def grads(z0):
            def loss():
                z = odeint(wide, z0, [0.0, 1.0], solver=rk4, steps=steps, gradient=gradient)
                return tf.reduce_sum(z[-1])

            return gradients(loss, z0)

        dot = grads.experimental_get_compiler_ir(tf.ones([64, 32]))(stage="optimized_hlo")
        return largest_array(dot)

    weights = tf.constant(rng.normal(size=(32, 32)), tf.float32)

    def wide(t, z):
        return tf.tanh(z @ weights)

    state = 64 * 32 * 4
    assert temporary_bytes("adjoint", 1000) == temporary_bytes("adjoint", 10)
    assert temporary_bytes("reversible", 1000) == temporary_bytes("reversible", 10)
    assert temporary_bytes("checkpoint", 1000) == 1001 * state
    assert temporary_bytes("backprop", 1000) >= 1000 * state


def largest_array(hlo):
    """The bytes of the largest float32 array in a compiled program."""
    import re

    sizes = [
        np.prod([int(n) for n in dims.split(",")]) for dims in re.findall(r"f32\[([\d,]+)\]", hlo)
    ]
    return 4 * max(sizes)


def random_normal():
    return lambda z: tf.random.normal(z.shape)


def dropout():
    layer = keras.layers.Dropout(0.5)
    return lambda z: layer(z, training=True)


def batch_normalization():
    layer = keras.layers.BatchNormalization()
    layer.build([3, 2])
    return tf.function(lambda z: layer(z, training=True))


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint", "reversible"])
@pytest.mark.parametrize("make", [random_normal, dropout, batch_normalization])
def test_a_func_that_answers_otherwise_when_asked_again_is_warned_of(make, gradient):
    inner = make()
    with pytest.warns(UserWarning, match="draws random numbers or changes variables"):
        odeint(lambda t, z: inner(z), tf.ones([3, 2]), [0.0, 1.0], steps=1, gradient=gradient)


def test_a_func_that_answers_the_same_is_not_warned_of(recwarn):
    noise, layer = tf.random.normal([3, 2]), keras.layers.Dropout(0.5)

    def func(t, z):
        fixed = tf.random.stateless_normal([3, 2], seed=[1, 2])
        return layer(z, training=False) + noise + fixed

    for gradient in GRADIENTS:
        odeint(func, tf.ones([3, 2]), [0.0, 1.0], steps=1, gradient=gradient)
    odeint(func, tf.ones([3, 2]), [0.0, 1.0])
    odeint(lambda t, z: dropout()(z), tf.ones([3, 2]), [0.0, 1.0], steps=1, gradient="backprop")
    assert not [w for w in recwarn if "random" in str(w.message)]


@pytest.mark.parametrize("settings", [{"solver": "rk4", "steps": 8}, {}], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
def test_func_may_open_a_tape_of_its_own(gradient, settings):
    """As dynamics do that follow the gradient of an energy: dz/dt = -dE/dz, E = scale |z|^2 / 2."""
    scale, z0 = tf.Variable(0.7, dtype=tf.float64), tf.constant([1.0, -2.0], tf.float64)

    def descent(t, z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            energy = scale * tf.reduce_sum(z**2) / 2
        return -tape.gradient(energy, z)

    def loss():
        return tf.reduce_sum(odeint(descent, z0, [0.0, 1.0], gradient=gradient, **settings)[-1])

    g_z0, g_scale = gradients(loss, [z0, scale])
    np.testing.assert_allclose(g_z0, [np.exp(-0.7)] * 2, rtol=1e-3)
    np.testing.assert_allclose(g_scale, np.exp(-0.7), rtol=1e-3)


@pytest.mark.parametrize(
    "settings",
    [{"solver": "rk4", "steps": 300}, {"rtol": 1e-3, "atol": 1e-3}],
    ids=["fixed", "adaptive"],
)
def test_a_large_checkpoint_graph_can_be_called_again(settings):
    """Where its optimiser expects much memory to be in use, TensorFlow adds temporary variables
    that a second call of the graph finds in its way (tensorflow/tensorflow#23780)."""

    @tf.function(input_signature=[tf.TensorSpec([512, 64])])
    def grads(z0):
        def loss():
            return tf.reduce_sum(odeint(lambda t, z: t - z * z, z0, [0.0, 1.0], **settings)[-1])

        return gradients(loss, [z0])

    first, second = grads(tf.ones([512, 64])), grads(tf.ones([512, 64]))
    np.testing.assert_array_equal(first[0], second[0])
