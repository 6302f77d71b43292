"""Adaptive steps: accuracy, gradients, statistics, and every way to fail."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from node_lib import RungeKutta, dopri5, odeint

GRADIENTS = ["backprop", "checkpoint", "adjoint"]
PAIRS = ["bosh3", "dopri5", "tsit5", "dopri8"]
RUNS = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}
rng = np.random.default_rng(3)
V1 = tf.Variable(rng.normal(size=(3, 8)))
V2 = tf.Variable(rng.normal(size=(8, 2)) / 2)
START = tf.constant(rng.normal(size=(4, 2)))
COTANGENTS = rng.normal(size=(5, 4, 2))
TIMES = {
    "two": tf.constant([0.0, 1.5], tf.float64),
    "shared, one twice": tf.constant([0.0, 0.1, 0.4, 0.4, 1.5], tf.float64),
    "backward": tf.constant([1.0, 0.6, 0.5, 0.2, -0.5], tf.float64),
    "own": tf.constant(np.cumsum(rng.uniform(-0.2, 1, size=(5, 4, 1)) ** 2, axis=0)),
}


def network(t, z):
    t = t * tf.ones_like(z[:, :1])
    return tf.tanh(tf.concat([z, t], axis=1) @ V1) @ V2


@functools.cache
def gradients(gradient, times, solver="dopri5", tolerance=1e-6, run="graph"):
    """The states, and the gradients of z0, t and the variables for a loss of all states."""

    @RUNS[run]
    def solve(z0, t):
        with tf.GradientTape() as tape:
            tape.watch([z0, t])
            z = odeint(
                network,
                z0,
                t,
                solver=solver,
                rtol=tolerance,
                atol=tolerance,
                gradient=gradient,
                max_steps=100,
            )
            loss = tf.reduce_sum(COTANGENTS[: z.shape[0]] * z)
        return z, tape.gradient(loss, [z0, t, V1, V2])

    z, grads = solve(START, TIMES[times])
    return z.numpy(), [g.numpy() for g in grads]


@pytest.mark.parametrize(
    ("solver", "times"),
    [
        ("dopri5", "two"),
        ("dopri5", "shared, one twice"),
        ("dopri5", "own"),
        ("dopri8", "shared, one twice"),
        ("bosh3", "backward"),
    ],
)
def test_checkpoint_is_backprop_and_adjoint_is_near(solver, times):
    _, exact = gradients("backprop", times, solver)
    _, ours = gradients("checkpoint", times, solver)
    for a, b in zip(exact, ours, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-11, atol=1e-11)
    _, adjoint = gradients("adjoint", times, solver)
    for a, b in zip(exact, adjoint, strict=True):
        np.testing.assert_allclose(b, a, atol=2e-4)


@pytest.mark.parametrize("run", ["eager", "xla"])
@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
@pytest.mark.parametrize("times", ["shared, one twice", "own"])
def test_eager_graph_and_xla_agree(times, gradient, run):
    z, grads = gradients(gradient, times)
    z_other, grads_other = gradients(gradient, times, run=run)
    np.testing.assert_allclose(z_other, z, rtol=1e-11)
    for a, b in zip(grads, grads_other, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9)


def test_adjoint_tends_to_the_exact_gradient_with_the_tolerance():
    differences = []
    for tolerance in (1e-4, 1e-7, 1e-10):
        _, exact = gradients("checkpoint", "backward", tolerance=tolerance)
        _, adjoint = gradients("adjoint", "backward", tolerance=tolerance)
        # The exact gradient of a time is the slope of the dense output: one power of h less.
        for name, a, b in zip(["z0", "t", "V1", "V2"], exact, adjoint, strict=True):
            scale = tolerance ** (4 / 5) if name == "t" else tolerance
            differences.append(np.abs(a - b).max() / scale)
    assert max(differences) < 100, differences


def test_the_gradient_of_every_time_is_the_slope_there():
    """For exact solutions dL/dt_j = c_j . f(t_j, z_j), and for t_0 minus what remains."""
    rate = tf.constant(-0.7, tf.float64)
    t = tf.constant([0.2, 0.5, 0.9, 1.3], tf.float64)
    c = np.array([0.3, -1.0, 2.0, 0.7])
    for gradient in GRADIENTS:
        with tf.GradientTape() as tape:
            tape.watch(t)
            z = odeint(
                lambda t, z: rate * z,
                tf.constant(2.0, tf.float64),
                t,
                rtol=1e-10,
                atol=1e-10,
                gradient=gradient,
            )
            loss = tf.reduce_sum(c * z)
        later = c[1:] * -0.7 * z[1:]
        np.testing.assert_allclose(tape.gradient(loss, t), [-np.sum(later), *later], rtol=1e-6)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_gradient_of_a_time_that_equals_the_first(gradient, own):
    """z(t_1) = z0 where t_1 = t_0, and yet it moves with t_1, at the slope there."""
    rows = np.array([0.2, 0.2, 1.0])
    t = tf.constant(rows[:, None, None] if own else rows)
    with tf.GradientTape() as tape:
        tape.watch(t)
        z0 = tf.constant([[2.0]], tf.float64)
        z1 = odeint(lambda t, z: -0.7 * z, z0, t, gradient=gradient)[1]
    np.testing.assert_allclose(np.ravel(tape.gradient(z1, t)), [1.4, -1.4, 0], atol=1e-12)


@pytest.mark.parametrize("solver", PAIRS)
def test_states_inside_a_step_are_as_good_as_its_end(solver):
    """t from 0 to 10 by the method's own steps, against exp and cos."""
    func = lambda t, z: tf.stack([-0.3 * z[0], z[2], -z[1]])  # noqa: E731
    t = np.linspace(0, 10, 101)
    solve = tf.function(
        lambda z0, t: odeint(func, z0, t, solver=solver, rtol=1e-7, atol=1e-7, return_stats=True)
    )
    z0 = tf.constant([1.0, 1.0, 0.0], tf.float64)
    z, stats = solve(z0, tf.constant(t))
    exact = np.stack([np.exp(-0.3 * t), np.cos(t), -np.sin(t)], axis=1)
    assert np.abs(z - exact).max() < 50e-7
    _, alone = solve(z0, tf.constant(t[[0, -1]]))
    assert [int(x) for x in stats][1:] == [int(x) for x in alone][1:]


def test_statistics():
    calls = tf.Variable(0)

    def func(t, z):
        calls.assign_add(1)
        return [-z[0] * t]

    @tf.function
    def solve():
        return odeint(func, [tf.ones([2])], [0.0, 3.0], gradient="backprop", return_stats=True)

    _, stats = solve()
    assert int(calls) == int(stats.evaluations)
    assert int(stats.evaluations) == 2 + 6 * (int(stats.accepted) + int(stats.rejected))
    _, fixed = odeint(
        func, [tf.ones([2])], [0.0, 1.0, 2.0], solver="rk4", steps=5, return_stats=True
    )
    assert [int(x) for x in fixed] == [40, 10, 0]


def test_a_pair_without_fsal_and_without_dense_output_of_its_own():
    """Heun with Euler inside: the cubic through both ends serves as dense output."""
    pair = RungeKutta("heun-euler", 2, ((), (1,)), (0.5, 0.5), (0, 1), (-0.5, 0.5))
    t = np.linspace(0, 2, 9)
    grads = {}
    for gradient in ("backprop", "checkpoint"):
        z0 = tf.constant([1.0], tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(z0)
            z = odeint(
                lambda t, z: -z * t, z0, t, solver=pair, rtol=1e-5, atol=1e-5, gradient=gradient
            )
            loss = tf.reduce_sum(z)
        grads[gradient] = tape.gradient(loss, z0)
        np.testing.assert_allclose(z[:, 0], np.exp(-(t**2) / 2), atol=1e-4)
    np.testing.assert_allclose(grads["checkpoint"], grads["backprop"], rtol=1e-12)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_huge_and_tiny_scales_of_time(scale, dtype, gradient):
    end = tf.constant([0.0, scale], dtype)
    z0 = tf.constant([1.0, 2.0], dtype)
    with tf.GradientTape() as tape:
        tape.watch(z0)
        z = odeint(lambda t, z: -z / scale, z0, end, gradient=gradient)[-1]
    np.testing.assert_allclose(z, np.exp(-1) * z0, rtol=1e-4)
    np.testing.assert_allclose(tape.gradient(z, z0), [np.exp(-1)] * 2, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_huge_and_tiny_states(scale):
    z0 = tf.constant([scale, -scale], tf.float64)
    z = odeint(lambda t, z: -z, z0, [0.0, 1.0], rtol=1e-6, atol=1e-6 * scale)[-1]
    np.testing.assert_allclose(z, np.exp(-1) * z0, rtol=1e-5)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_span_of_zero(gradient):
    z0, t = tf.constant([3.0]), tf.constant([1.0, 1.0])
    with tf.GradientTape() as tape:
        tape.watch([z0, t])
        z = odeint(lambda t, z: z * t, z0, t, gradient=gradient)
        loss = tf.reduce_sum(z[-1])
    np.testing.assert_array_equal(z, [[3.0], [3.0]])
    g_z0, g_t = tape.gradient(loss, [z0, t])
    np.testing.assert_allclose(g_z0, [1.0])
    np.testing.assert_allclose(g_t, [-3.0, 3.0], rtol=1e-6)


def test_tolerances_may_be_tensors_that_a_graph_learns_when_it_runs():
    @tf.function(input_signature=[tf.TensorSpec([])] * 2)
    def solve(rtol, atol):
        z0 = tf.ones([1], tf.float64)
        return odeint(lambda t, z: -z, z0, [0.0, 5.0], rtol=rtol, atol=atol, return_stats=True)

    (z, stats), (_, few) = solve(1e-7, 1e-7), solve(1e-2, 1e-2)
    assert abs(float(z[-1, 0]) - np.exp(-5)) < 1e-6 and few.accepted < stats.accepted
    with pytest.raises(tf.errors.InvalidArgumentError, match="rtol is not a positive number"):
        solve(0.0, 1e-3)


@pytest.mark.parametrize("per_sample", [False, True])
def test_an_empty_batch(per_sample):
    z = odeint(lambda t, z: -z, tf.zeros([0, 2]), [0.0, 1.0], per_sample=per_sample)
    assert z.shape == (2, 0, 2)

    @tf.function(input_signature=[tf.TensorSpec([None, 2])])
    def solve(z0):
        return odeint(lambda t, z: -z, z0, [0.0, 0.5, 1.0], per_sample=per_sample)

    assert solve(tf.zeros([0, 2])).shape == (3, 0, 2)
    np.testing.assert_allclose(solve(tf.ones([1, 2]))[-1], np.exp(-1) * np.ones((1, 2)), rtol=1e-5)


FAILURES = {
    "max_steps": (lambda t, z: -1e6 * (z - tf.cos(t)), "max_steps = 50 steps.*raise max_steps"),
    "blow-up": (lambda t, z: z**2, "step size fell to.*at t =.*1"),
    "NaN later": (lambda t, z: z * tf.math.log(0.5 - t), "NaN or infinity near t =.*0.(5|49)"),
    "NaN at once": (lambda t, z: z * float("nan"), "NaN or infinity near t =.*0"),
    "infinite slope": (lambda t, z: 1.0 / tf.abs(t - 0.5) + 0 * z, "at t =.*0.(49|5)"),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("failure", FAILURES)
def test_failures_end_in_a_sentence_or_in_nan(failure, run):
    func, words = FAILURES[failure]
    steps = {"max_steps": 50, "blow-up": 1000}.get(failure, 200)

    def solve(on_failure):
        return RUNS[run](
            lambda z0: odeint(func, z0, [0.0, 0.25, 2.0], max_steps=steps, on_failure=on_failure)
        )(tf.constant([1.0], tf.float64))

    if run == "xla":  # compiled code cannot raise
        assert np.isnan(solve("raise")[-1]).all()
    else:
        with pytest.raises((RuntimeError, tf.errors.InvalidArgumentError), match=words):
            solve("raise")
    assert np.isnan(solve("nan")[-1]).all()


def test_what_was_reached_before_a_failure_is_right():
    z = odeint(
        lambda t, z: z**2,
        tf.constant([1.0], tf.float64),
        [0.0, 0.5, 2.0],
        rtol=1e-8,
        atol=1e-8,
        on_failure="nan",
    )
    np.testing.assert_allclose(z[1], [2.0], rtol=1e-6)
    assert np.isnan(z[2])


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("run", RUNS)
def test_an_adjoint_that_does_not_arrive_says_so(run, per_sample):
    """Forward the step is long and back, where the decay grows, it is not: 30 steps are few."""
    z0 = tf.constant([[1.0]], tf.float64)

    def gradient(on_failure):
        @RUNS[run]
        def solve(z0):
            with tf.GradientTape() as tape:
                tape.watch(z0)
                z = odeint(
                    lambda t, z: -50 * (z - 1),
                    z0,
                    [0.0, 1.0],
                    gradient="adjoint",
                    per_sample=per_sample,
                    max_steps=35,
                    on_failure=on_failure,
                )
                value = tf.reduce_sum(z[-1])
            return z, tape.gradient(value, z0)

        return solve(z0)

    z, g = gradient("nan")
    assert np.isfinite(z[-1]).all() and np.isnan(g).all()
    if run == "xla":
        assert np.isnan(gradient("raise")[1]).all()
    else:
        words = "adjoint.*, solved backward: max_steps = 35"
        with pytest.raises((RuntimeError, tf.errors.InvalidArgumentError), match=words):
            gradient("raise")


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"rtol": 0.0}, ValueError, "rtol is 0.0: it must be a positive number"),
        ({"atol": -1.0}, ValueError, "atol is -1.0"),
        ({"max_steps": 0}, ValueError, "max_steps is 0"),
        ({"max_steps": 1.5}, TypeError, "max_steps is 1.5"),
        (
            {"on_failure": "ignore"},
            ValueError,
            "on_failure is 'ignore': it must be one of raise, nan",
        ),
        ({"gradient": "reversible"}, ValueError, "reversible scheme needs fixed steps"),
        ({"solver": "rk4"}, ValueError, "steps is None, and the solver rk4 has no error estimate"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_settings_are_refused(wrong, error, words):
    with pytest.raises(error, match=words):
        odeint(lambda t, z: -z, tf.ones([2]), [0.0, 1.0], **wrong)


def test_fixed_steps_of_an_adaptive_method():
    z, stats = odeint(
        lambda t, z: -z,
        tf.ones([1], tf.float64),
        [0.0, 1.0],
        solver=dopri5,
        steps=10,
        return_stats=True,
    )
    np.testing.assert_allclose(z[-1], np.exp(-1), rtol=1e-8)
    assert int(stats.evaluations) == 60


# per_sample: each sample has its own clock, steps and end.


def van_der_pol(mu):
    """z'' = mu (1 - z^2) z' - z, one mu for each sample."""

    def func(t, z):
        x, v = z[:, :1], z[:, 1:]
        return tf.concat([v, mu * (1 - x**2) * v - x], axis=1)

    return func


@functools.cache
def van_der_pol_solver(solver, per_sample):
    """One graph for any batch: mu is a third component, which does not change."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float64)])
    def solve(mu):
        mu = mu[:, None]
        z0 = tf.concat([2 + 0 * mu, 0 * mu, mu], axis=1)

        def func(t, z):
            return tf.concat([van_der_pol(z[:, 2:])(t, z[:, :2]), 0 * z[:, 2:]], axis=1)

        return odeint(
            func,
            z0,
            [0.0, 3.0, 10.0],
            solver=solver,
            per_sample=per_sample,
            max_steps=5000,
            gradient="backprop",
            return_stats=True,
        )

    return solve


def solve_van_der_pol(mu, per_sample=True, solver="dopri5"):
    z, stats = van_der_pol_solver(solver, per_sample)(tf.constant(mu, tf.float64))
    return z.numpy(), [x.numpy() for x in stats]


def test_each_sample_takes_its_own_steps_whatever_its_batch():
    """mu from 0.1 to 50 in one batch, in one loop; with joint steps each sample takes the most."""
    mu = np.geomspace(0.1, 50, 16)
    together, stats = solve_van_der_pol(mu)
    alone = [solve_van_der_pol(mu[i : i + 1]) for i in range(16)]
    np.testing.assert_allclose(together, np.concatenate([z for z, _ in alone], axis=1), rtol=1e-12)
    np.testing.assert_array_equal(stats, np.concatenate([own for _, own in alone], axis=1))
    attempts = stats[1] + stats[2]
    _, joint = solve_van_der_pol(mu, per_sample=False)
    print(
        f"attempts of the loop: {attempts.max()}, of the samples alone: {attempts.sum()}, "
        f"with joint steps: {joint[1] + joint[2]}; accepted {stats[1].tolist()}"
    )
    assert attempts.max() <= attempts.sum()
    assert attempts.max() < joint[1] + joint[2]
    assert stats[1].sum() < 16 * joint[1] / 2


@given(
    st.sampled_from(PAIRS),
    st.lists(st.floats(0.1, 2), min_size=1, max_size=5),
    st.integers(0, 4),
)
def test_no_sample_depends_on_its_batch(solver, mu, i):
    """To rounding, which these problems enlarge little; a larger mu does so at its jumps."""
    i = i % len(mu)
    together, stats = solve_van_der_pol(mu, solver=solver)
    alone, own = solve_van_der_pol(mu[i : i + 1], solver=solver)
    np.testing.assert_allclose(together[:, i], alone[:, 0], rtol=1e-12, atol=1e-12)
    assert [x[i] for x in stats] == [x[0] for x in own]


@pytest.mark.parametrize("times", ["shared, one twice", "own"])
def test_per_sample_gradients(times):
    """checkpoint is backprop, adjoint is near, and both are the sum over samples alone."""
    t = TIMES[times]

    def solve(gradient, z0, t, cotangents):
        @tf.function
        def run():
            with tf.GradientTape() as tape:
                tape.watch([z0, t])
                z = odeint(
                    network,
                    z0,
                    t,
                    rtol=1e-6,
                    atol=1e-6,
                    gradient=gradient,
                    per_sample=True,
                    max_steps=100,
                )
                loss = tf.reduce_sum(cotangents * z)
            return tape.gradient(loss, [z0, t, V1, V2])

        return [g.numpy() for g in run()]

    exact = solve("backprop", START, t, COTANGENTS)
    for a, b in zip(exact, solve("checkpoint", START, t, COTANGENTS), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-11, atol=1e-11)
    for a, b in zip(exact, solve("adjoint", START, t, COTANGENTS), strict=True):
        np.testing.assert_allclose(b, a, atol=5e-4)
    rows = [t if len(t.shape) == 1 else t[:, i : i + 1] for i in range(4)]
    alone = [
        solve("checkpoint", START[i : i + 1], rows[i], COTANGENTS[:, i : i + 1]) for i in (0, 3)
    ]
    np.testing.assert_allclose(exact[0][[0, 3]], [g[0][0] for g in alone], rtol=1e-9, atol=1e-10)


def test_one_sample_that_fails_leaves_the_others_alone():
    z0 = tf.constant([[1.0], [-1.0]], tf.float64)
    z = odeint(lambda t, z: z**2, z0, [0.0, 2.0], per_sample=True, on_failure="nan")
    assert np.isnan(z[-1, 0]) and abs(float(z[-1, 1, 0]) + 1 / 3) < 1e-5
    with pytest.raises(RuntimeError, match="step size fell to.*t = 1 in 1 of 2 samples"):
        odeint(lambda t, z: z**2, z0, [0.0, 2.0], per_sample=True)


def test_per_sample_of_states_of_any_rank():
    for shape in ([3], [3, 2], [3, 2, 2]):
        z0 = tf.ones(shape, tf.float64)
        z = odeint(lambda t, z: -z, z0, np.linspace(0, 1, 4), per_sample=True)
        np.testing.assert_allclose(z[-1], np.exp(-1) * z0, rtol=1e-4)
    with pytest.raises(ValueError, match="per_sample=True with states of shapes"):
        odeint(lambda t, z: -z, tf.constant(1.0), [0.0, 1.0], per_sample=True)
