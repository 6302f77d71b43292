"""Continuous flows: densities against closed forms, traces, noise, gradients, saving, training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from node_lib import (
    GRADIENTS,
    Autonomous,
    ConcatTime,
    ContinuousFlow,
    NeuralODE,
    check_gradients,
    odeint,
)

rng = np.random.default_rng(0)
X = rng.normal(size=(32, 2))
A = np.array([[0.3, 1.1], [-0.7, 0.2]])
SOLVERS = [
    {"solver": "rk4", "steps": 60},
    {"solver": "dopri5", "steps": None, "rtol": 1e-10, "atol": 1e-10},
    {"solver": "dopri5", "steps": None, "rtol": 1e-10, "atol": 1e-10, "per_sample": True},
]


def mlp(units=2, dtype=None):
    return keras.Sequential(
        [
            keras.layers.Dense(8, activation="tanh", dtype=dtype),
            keras.layers.Dense(units, dtype=dtype),
        ]
    )


def network_flow(dtype="float64", dim=2, trace="exact", noise="rademacher", seed=3, **options):
    """A flow of random dynamics that depend on time."""
    keras.utils.set_random_seed(1)
    dynamics = ConcatTime(mlp(dim, dtype), dtype=dtype)
    ode = NeuralODE(dynamics, dtype=dtype, **{"steps": 8, **options})
    return ContinuousFlow(ode, dim, trace=trace, noise=noise, seed=seed)


def linear(t, z):
    """f = (1 + t) A z + 0.5."""
    return (1 + t) * (z @ A.T) + 0.5


def linear_flow(**options):
    return ContinuousFlow(NeuralODE(linear, t0=0.2, dt=0.8, dtype="float64", **options), 2)


def exact_log_prob(x):
    """Normal: x = M z + m with M = exp(A c), where c is the integral of 1 + t."""
    c = 0.8 + (1.0**2 - 0.2**2) / 2
    M = tf.linalg.expm(A * c).numpy()
    times = [0.2, 1.0]
    m = odeint(linear, np.zeros((1, 2)), times, rtol=1e-12, atol=1e-12)[-1].numpy()
    z = np.linalg.solve(M, (x - m).T).T
    return -0.5 * np.sum(z**2, axis=1) - np.log(2 * np.pi) - np.trace(A) * c


@pytest.mark.parametrize("options", SOLVERS, ids=["rk4", "dopri5", "per_sample"])
def test_linear_dynamics_carry_a_normal_density_that_is_known(options):
    flow = linear_flow(**options)
    np.testing.assert_allclose(flow.log_prob(X), exact_log_prob(X), rtol=1e-7, atol=1e-7)
    x, log_p = flow.sample(16, seed=1, return_log_prob=True)
    np.testing.assert_allclose(log_p, exact_log_prob(x.numpy()), rtol=1e-7, atol=1e-7)


def test_calling_the_layer_is_log_prob():
    flow = network_flow()
    np.testing.assert_array_equal(flow(X), flow.log_prob(X))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_exact_trace_is_that_of_the_jacobian(dim):
    flow = network_flow(dim=dim)
    z = tf.constant(rng.normal(size=(7, dim)))
    t = tf.constant(0.4, tf.float64)
    dz, trace = flow.slope_and_trace(t, z)
    with tf.GradientTape() as tape:
        tape.watch(z)
        slope = flow.ode.dynamics(t, z)
    jacobians = tape.batch_jacobian(slope, z)
    np.testing.assert_allclose(trace[:, 0], tf.linalg.trace(jacobians), rtol=1e-12)
    np.testing.assert_allclose(dz, slope, rtol=1e-12)


def test_dynamics_may_read_inputs_of_their_own_for_each_sample():
    """The batch that f sees is the batch that was given, with the exact trace too."""
    rates = tf.constant(rng.uniform(-1, 1, size=(32, 1)))
    flow = ContinuousFlow(NeuralODE(lambda t, z: rates * z, steps=20, dtype="float64"), 2)
    z0 = X * np.exp(-rates)
    exact = -0.5 * np.sum(z0**2, axis=1) - np.log(2 * np.pi) - 2 * rates.numpy()[:, 0]
    np.testing.assert_allclose(flow.log_prob(X), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_hutchinsons_mean_is_the_trace(noise):
    flow = network_flow(dim=5, trace="hutchinson", noise=noise)
    z, t, n = tf.constant(rng.normal(size=(1, 5))), tf.constant(0.4, tf.float64), 20_000
    exact = flow.slope_and_trace(t, z)[1]
    e = flow._draw([n, 5], tf.constant([4, 5]))
    estimates = flow.slope_and_trace(t, tf.repeat(z, n, axis=0), e)[1].numpy()
    assert estimates.std() > 0.1
    assert abs(estimates.mean() - float(exact[0, 0])) < 4 * estimates.std() / n**0.5


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_hutchinsons_log_density_is_right_in_the_mean(noise):
    flow = network_flow(trace="hutchinson", noise=noise)
    x = np.repeat([[0.5, -0.3]], 4000, axis=0)
    values = flow.log_prob(x, seed=1).numpy()
    exact = network_flow().log_prob(x[:1]).numpy()
    assert values.std() > 1e-3
    assert abs(values.mean() - exact[0]) < 4 * values.std() / 4000**0.5


def test_signs_are_exact_for_a_diagonal_jacobian():
    rates = tf.constant([0.5, -1.0])
    for noise, off in (("rademacher", 0.0), ("gaussian", 0.1)):
        ode = NeuralODE(lambda t, z: tf.sin(z) * rates, steps=10)
        flow = ContinuousFlow(ode, 2, trace="hutchinson", noise=noise)
        exact = ContinuousFlow(ode, 2).log_prob(X)
        difference = np.abs(flow.log_prob(X, seed=1) - exact).max()
        assert difference >= off and (off or difference < 1e-5)


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_the_noise_of_a_solve_stays_the_same(gradient):
    """The solve equals one with that noise as a constant, in value and in gradient."""
    flow = network_flow(trace="hutchinson", gradient=gradient, steps=6)
    e = flow._draw([32, 2], flow._seed(7))
    flow.build()

    def augmented(t, state):
        dz, trace = flow.slope_and_trace(t, state[0], e)
        return dz, -trace

    def by_hand():
        start = (tf.constant(X), tf.zeros([32, 1], tf.float64))
        z, change = odeint(augmented, start, [1.0, 0.0], solver="rk4", steps=6)
        return -0.5 * tf.reduce_sum(z[-1] ** 2, 1) - np.log(2 * np.pi) - change[-1][:, 0]

    values, gradients = [], []
    for function in (lambda: flow.log_prob(X, seed=7), by_hand):
        with tf.GradientTape() as tape:
            values.append(tf.function(function)())
        gradients.append(tape.gradient(values[-1], flow.trainable_variables))
    np.testing.assert_allclose(*values, rtol=1e-12)
    rtol = 2e-3 if gradient == "adjoint" else 1e-9
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol)


def test_seeds():
    flow, again = (network_flow(trace="hutchinson", seed=3) for _ in range(2))
    first, second = flow.log_prob(X), flow.log_prob(X)
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(again.log_prob(X), first)
    np.testing.assert_array_equal(flow.log_prob(X, seed=5), flow.log_prob(X, seed=5))
    np.testing.assert_array_equal(flow.sample(4, seed=5), flow.sample(4, seed=5))
    assert np.abs(flow.sample(4) - flow.sample(4)).max() > 1e-3
    x, _ = flow.sample(4, seed=5, return_log_prob=True)
    np.testing.assert_allclose(x, flow.sample(4, seed=5), rtol=1e-12)


@pytest.mark.parametrize("options", SOLVERS[:2], ids=["rk4", "dopri5"])
def test_log_prob_of_samples_is_what_sampling_says_and_the_flow_inverts(options):
    flow = network_flow(**options)
    x, log_p = flow.sample(20, seed=2, return_log_prob=True)
    np.testing.assert_allclose(flow.log_prob(x), log_p, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(flow.forward(flow.inverse(X)), X, rtol=1e-6, atol=1e-7)
    z0 = tf.random.stateless_normal([20, 2], [2, 0], dtype=tf.float64)
    np.testing.assert_allclose(flow.inverse(x), z0, rtol=1e-6, atol=1e-7)


def test_the_density_integrates_to_one():
    flow = network_flow(steps=20)
    line = np.linspace(-8, 8, 81)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    integral = np.exp(flow.log_prob(grid)).sum() * 0.2**2
    assert abs(integral - 1) < 1e-2


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_against_finite_differences(gradient, trace):
    flow = network_flow(trace=trace, gradient=gradient, steps=2 if gradient != "adjoint" else 16)
    flow.build()
    check_gradients(
        tf.function(lambda x: flow.log_prob(x, seed=1)),
        tf.constant(X[:3]),
        variables=flow.trainable_variables,
        rtol=1e-3 if gradient == "adjoint" else 1e-6,
    )


def test_gradients_of_adaptive_steps_and_of_samples():
    options = {"solver": "dopri5", "steps": None, "rtol": 1e-8, "atol": 1e-8}
    flow = network_flow(**options)
    flow.build()
    for function, inputs in (
        (lambda x: flow.log_prob(x), tf.constant(X[:3])),
        (lambda z: flow.forward(z), tf.constant(X[:3])),
    ):
        check_gradients(
            tf.function(function), inputs, variables=flow.trainable_variables, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("trace", "options"),
    [("exact", {}), ("exact", {"run_eagerly": True}), ("hutchinson", {"jit_compile": True})],
)
def test_fit_by_maximum_likelihood(trace, options):
    flow = network_flow("float32", trace=trace, steps=3)
    model = keras.Sequential([keras.layers.Input([2]), flow])
    model.compile(keras.optimizers.Adam(0.02), lambda _, log_p: -log_p, **options)
    data = (0.3 * X + 1).astype("float32")
    history = model.fit(data, data, batch_size=16, epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0] - 0.2


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_the_ways_of_running_agree(trace):
    flow = network_flow("float32", trace=trace)
    for function in (
        lambda: flow.log_prob(X, seed=1),
        lambda: flow.sample(5, seed=1, return_log_prob=True),
    ):
        eager = tf.nest.flatten(function())
        for compiled in (tf.function(function), tf.function(function, jit_compile=True)):
            for a, b in zip(eager, tf.nest.flatten(compiled()), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_solve_is_compiled_once():
    traces = []

    def dynamics(t, z):
        traces.append(1)
        return -z

    flow = ContinuousFlow(NeuralODE(dynamics, steps=3), 2, trace="hutchinson")
    for batch in (4, 5):
        flow.log_prob(X[:batch])
    before = len(traces)
    for batch in (6, 7, 8):
        flow.log_prob(X[:batch])
    assert len(traces) == before


def test_batches_of_every_size():
    flow = network_flow()
    all_at_once = flow.log_prob(X)
    one_by_one = [flow.log_prob(x[None])[0] for x in X]
    np.testing.assert_allclose(one_by_one, all_at_once, rtol=1e-12)
    assert flow.log_prob(X[:0]).shape == (0,)
    x = keras.Input([2])
    assert keras.Model(x, flow(x)).output_shape == (None,)


def test_settings_may_be_changed_after_training():
    flow = linear_flow(steps=2)
    coarse = np.abs(flow.log_prob(X) - exact_log_prob(X)).max()
    flow.ode.steps = 60
    assert np.abs(flow.log_prob(X) - exact_log_prob(X)).max() < 1e-6 < coarse


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_save_and_load_needs_no_custom_objects(tmp_path, trace):
    flow = network_flow("float32", trace=trace, noise="gaussian", solver="heun", dt=0.7, t0=0.1)
    model = keras.Sequential([keras.layers.Input([2]), flow])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").layers[0]
    np.testing.assert_array_equal(loaded.log_prob(X, seed=1), flow.log_prob(X, seed=1))
    np.testing.assert_array_equal(loaded.sample(3, seed=1), flow.sample(3, seed=1))
    assert (loaded.dim, loaded.trace, loaded.noise, loaded.seed) == (2, trace, "gaussian", 3)
    assert (loaded.ode.solver, loaded.ode.steps, loaded.ode.dt) == ("heun", 8, 0.7)


def test_the_state_has_the_precision_of_the_variables():
    double = network_flow("float64")
    assert double.log_prob(X).dtype == tf.float64
    assert np.abs(double.log_prob(X) - double.log_prob(X.astype("float32"))).max() > 1e-10
    assert network_flow("float32").sample(3).dtype == tf.float32
    half = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    ode = NeuralODE(Autonomous(mlp(dtype=half), dtype=half), steps=2, dtype=half)
    flow = ContinuousFlow(ode, 2, trace="hutchinson")
    assert flow.log_prob(X).dtype == tf.float32
    assert np.all(np.isfinite(flow.log_prob(X)))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"ode": lambda t, z: -z}, TypeError, "ode is .*must be a NeuralODE"),
        ({"dim": 0}, ValueError, "dim is 0: it must be at least 1"),
        ({"dim": 2.5}, TypeError, "dim is 2.5"),
        ({"trace": "guess"}, ValueError, "trace is 'guess'.*exact, hutchinson"),
        ({"noise": "uniform"}, ValueError, "noise is 'uniform'.*rademacher, gaussian"),
    ],
)
def test_wrong_settings_are_refused_at_once(options, error, words):
    with pytest.raises(error, match=words):
        ContinuousFlow(**{"ode": NeuralODE(lambda t, z: -z), "dim": 2, **options})


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (np.ones([4, 3]), ValueError, r"x has shape \(4, 3\): it must have shape \[batch, 2\]"),
        (np.ones([2]), ValueError, r"x has shape \(2,\)"),
        (np.ones([4, 2], int), TypeError, "x has dtype int64: it must be floating point"),
        (np.full([4, 2], np.nan), ValueError, "NaN"),
    ],
)
def test_wrong_points_are_refused(x, error, words):
    flow = ContinuousFlow(NeuralODE(lambda t, z: -z, dtype="float64"), 2)
    for method in (flow.log_prob, flow.inverse):
        with pytest.raises((error, tf.errors.InvalidArgumentError), match=words):
            method(x)


def test_dynamics_of_another_shape_are_refused():
    flow = ContinuousFlow(NeuralODE(lambda t, z: z[:, :1]), 2)
    with pytest.raises(ValueError, match="must have the shape of z"):
        flow.log_prob(X)
