"""The Keras layer: in models, in fit, saved and loaded, with its own spans and states."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from node_lib import (
    GRADIENTS,
    Autonomous,
    ConcatTime,
    NeuralODE,
    dopri8,
    get_neural_ode_layer,
    heun,
    odeint,
    rk4,
)

rng = np.random.default_rng(0)
X = rng.normal(size=(32, 2)).astype("float32")
Y = X[:, :1] * X[:, 1:]


def mlp(units=2):
    return keras.Sequential([keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(units)])


def model(**options):
    keras.utils.set_random_seed(1)
    ode = NeuralODE(ConcatTime(mlp()), **{"steps": 4, **options})
    return keras.Sequential([keras.layers.Input([2]), ode, keras.layers.Dense(1)])


@pytest.mark.parametrize("compiled", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=str)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_fit_learns_in_every_way_of_running(gradient, compiled):
    network = model(gradient=gradient)
    network.compile(keras.optimizers.Adam(0.01), "mse", **compiled)
    losses = network.fit(X, Y, batch_size=16, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_the_ways_of_running_agree():
    network = model()
    ode = network.layers[0]
    eager = ode(X)
    graph = tf.function(ode)(X)
    xla = tf.function(ode, jit_compile=True)(X)
    np.testing.assert_allclose(eager, graph, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(eager, xla, rtol=1e-5, atol=1e-6)


def test_the_layer_is_odeint():
    ode = NeuralODE(Autonomous(mlp()), t0=0.5, dt=2.0, steps=5)
    by_hand = odeint(ode.dynamics, tf.constant(X), [0.5, 2.5], solver="rk4", steps=5)[-1]
    np.testing.assert_allclose(ode(X), by_hand, rtol=1e-5, atol=1e-6)


def test_variables_and_their_gradients_are_those_of_the_dynamics():
    network = model()
    assert [v.shape for v in network.layers[0].trainable_variables] == [(3, 8), (8,), (8, 2), (2,)]
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((network(X) - Y) ** 2)
    assert all(g is not None for g in tape.gradient(loss, network.trainable_variables))


def test_dynamics_of_a_plain_function():
    ode = NeuralODE(lambda t, z: -z, dt=1.0, steps=20)
    np.testing.assert_allclose(ode(X), X * np.exp(-1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (32, 1), (32, 2)])
def test_time_spans_from_the_call(shape):
    dt = rng.uniform(-1, 1, size=shape).astype("float32")
    ode = NeuralODE(lambda t, z: -z, steps=20)
    np.testing.assert_allclose(ode(X, dt), X * np.exp(-dt), rtol=1e-4, atol=1e-6)


def test_concat_time_with_own_times():
    """The network sees each sample's own time, whatever the shape of the spans."""
    net = keras.layers.Dense(
        2, kernel_initializer=lambda *_, **__: tf.constant([[0.0, 0], [0, 0], [1, 1]])
    )
    dt = tf.constant(rng.uniform(0, 2, size=(32, 1)).astype("float32"))
    for span in (dt, tf.tile(dt, [1, 2])):
        z1 = NeuralODE(ConcatTime(net), steps=4)(tf.zeros([32, 2]), span)
        np.testing.assert_allclose(z1, np.tile(dt**2 / 2, (1, 2)), rtol=1e-4, atol=1e-6)


def test_return_states():
    ode = NeuralODE(lambda t, z: -z, dt=2.0, steps=8, return_states=True)
    with tf.GradientTape() as tape:
        z0 = tf.constant(X)
        tape.watch(z0)
        z1, states = ode(z0)
        total = tf.reduce_sum(states)
    assert states.shape == (8, 32, 2)
    np.testing.assert_array_equal(z1, states[-1])
    exact = np.exp(-0.25 * np.arange(1, 9))
    np.testing.assert_allclose(states, exact[:, None, None] * X, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(tape.gradient(total, z0), np.full((32, 2), exact.sum()), rtol=1e-3)


def test_functional_model_with_spans_and_states_of_unknown_batch_size():
    z0, dt = keras.Input([2]), keras.Input([1])
    z1, states = NeuralODE(Autonomous(mlp()), steps=3, return_states=True)(z0, dt)
    assert z1.shape == (None, 2) and states.shape == (3, None, 2)
    network = keras.Model([z0, dt], [z1, states])
    assert network([X, X[:, :1]])[1].shape == (3, 32, 2)


def test_summary_shows_the_shape_and_the_parameters():
    lines = []
    model().summary(print_fn=lines.append)
    text = "\n".join(map(str, lines))
    assert "(None, 2)" in text and " 50 " in text


@pytest.mark.parametrize("solver", ["midpoint", heun])
def test_save_and_load_needs_no_custom_objects(tmp_path, solver):
    network = model(solver=solver, steps=3, gradient="adjoint", dt=0.7, t0=0.1)
    expected = network(X)
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), expected)
    ode = loaded.layers[0]
    assert (ode.steps, ode.gradient, ode.dt, ode.t0) == (3, "adjoint", 0.7, 0.1)
    network.save_weights(tmp_path / "w.weights.h5")
    other = model(solver=solver, steps=3, dt=0.7, t0=0.1)
    other.layers[-1].kernel.assign_add(tf.ones([2, 1]))
    other.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_array_equal(other(X), expected)


@pytest.mark.parametrize("like", [heun, dopri8], ids=["heun", "dopri8"])
def test_a_tableau_of_your_own_is_saved(tmp_path, like):
    mine = dataclasses.replace(like, name="mine")
    network = model(solver=mine)
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].solver == mine
    np.testing.assert_array_equal(loaded(X), network(X))


def test_export_serves(tmp_path):
    network = model()
    network.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(X), network(X), rtol=1e-5, atol=1e-6)


def test_solver_and_steps_may_be_changed_after_training():
    ode = NeuralODE(lambda t, z: -z, solver="rk4", steps=20)
    ode(X)
    ode.solver, ode.steps = "euler", 2
    np.testing.assert_allclose(ode(X), X / 4, rtol=1e-6)


def test_the_solve_is_compiled_once():
    traces = []

    def dynamics(t, z):
        traces.append(1)
        return -z

    ode = NeuralODE(dynamics, steps=3)
    for dt in (0.1, 0.2):
        for batch in (4, 5):
            ode(X[:batch], dt)
    before = len(traces)
    for dt in (0.3, 0.4, 0.5):
        for batch in (6, 7, 8):
            ode(X[:batch], dt)
    assert len(traces) == before


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_the_state_in_float32(policy):
    seen = []

    class Probe(keras.layers.Layer):
        def call(self, z):
            seen.append(z.dtype)
            return -z

    with_policy = keras.dtype_policies.DTypePolicy(policy)
    ode = NeuralODE(
        Autonomous(Probe(dtype=with_policy), dtype=with_policy), steps=20, dtype=with_policy
    )
    z1 = ode(X)
    assert z1.dtype == tf.float32 and set(seen) == {tf.as_dtype(policy.removeprefix("mixed_"))}
    np.testing.assert_allclose(z1, X * np.exp(-1), rtol=2e-2, atol=1e-3)


def test_float64_layer():
    ode = NeuralODE(lambda t, z: -z, steps=50, dtype="float64")
    z1 = ode(X.astype("float64"))
    np.testing.assert_allclose(z1, X.astype("float64") * np.exp(-1), rtol=1e-8)


def test_times_keep_double_precision():
    """tf.cast would round a Python number through float32."""
    ode = NeuralODE(lambda t, z: tf.ones_like(z) * t, t0=0.1, dt=0.7, steps=1, dtype="float64")
    z1 = ode(np.zeros((1, 1)))
    np.testing.assert_allclose(z1, [[(0.8**2 - 0.1**2) / 2]], rtol=1e-15)


def test_repr_shows_the_settings():
    text = repr(NeuralODE(lambda t, z: -z, solver="heun", steps=7, gradient="adjoint"))
    assert "solver='heun'" in text and "steps=7" in text and "gradient='adjoint'" in text


def test_get_neural_ode_layer():
    rate = tf.Variable(-0.5)
    layer = get_neural_ode_layer(lambda t, z: rate * z, num_samples=20)
    dt = tf.constant(rng.uniform(0, 1, size=(32, 1)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(dt)
        z1 = layer(X, dt)
    np.testing.assert_allclose(z1, X * np.exp(-0.5 * dt), rtol=1e-5)
    g_dt, g_rate = tape.gradient(z1, [dt, rate])
    np.testing.assert_allclose(
        g_dt, tf.reduce_sum(-0.5 * z1, axis=1, keepdims=True), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(g_rate, tf.reduce_sum(dt * z1), rtol=1e-4)


@pytest.mark.parametrize("structure", [list, tuple])
def test_get_neural_ode_layer_with_structures_and_states(structure):
    layer = get_neural_ode_layer(
        lambda t, z: structure([-z[0], z[1]]), num_samples=10, method=rk4, return_states=True
    )
    states = layer(structure([tf.constant(X), tf.ones([32, 3])]), tf.ones([32, 1]))
    assert isinstance(states, structure)
    assert states[0].shape == (10, 32, 2) and states[1].shape == (10, 32, 3)
    np.testing.assert_allclose(states[1][-1], np.full((32, 3), np.e), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"solver": "rk5"}, ValueError, "solver is 'rk5'.*euler, midpoint, heun, rk4"),
        ({"steps": 0}, ValueError, "steps is 0"),
        ({"steps": 2.5}, TypeError, "steps is 2.5"),
        ({"gradient": "magic"}, ValueError, "gradient is 'magic'.*adjoint"),
    ],
)
def test_wrong_settings_are_refused_at_once(options, error, words):
    with pytest.raises(error, match=words):
        NeuralODE(lambda t, z: -z, **options)


@pytest.mark.parametrize("per_sample", [False, True])
def test_adaptive_steps_train_save_and_load(tmp_path, per_sample):
    network = model(solver="dopri5", steps=None, rtol=1e-4, per_sample=per_sample)
    network.compile(keras.optimizers.Adam(0.01), "mse")
    losses = network.fit(X, Y, batch_size=16, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(X), network(X), rtol=1e-5, atol=1e-6)
    ode = loaded.layers[0]
    assert (ode.steps, ode.rtol, ode.per_sample) == (None, 1e-4, per_sample)
    ode.rtol = ode.atol = 1e-6  # train cheap, look closer afterwards
    np.testing.assert_allclose(loaded(X), network(X), atol=1e-3)
    with pytest.raises(ValueError, match="adaptive steps have no fixed number of states"):
        model(solver="dopri5", steps=None, return_states=True)


def test_dynamics_must_be_callable():
    with pytest.raises(TypeError, match="dynamics is 3"):
        NeuralODE(3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_fit_learns_in_mixed_precision(policy):
    """Also when the scaled loss overflows: the optimizer skips that step, and nothing raises."""
    half = keras.dtype_policies.DTypePolicy(policy)
    keras.utils.set_random_seed(1)
    net = keras.Sequential(
        [keras.layers.Dense(8, "tanh", dtype=half), keras.layers.Dense(2, dtype=half)]
    )
    ode = NeuralODE(Autonomous(net, dtype=half), steps=2, gradient="adjoint", dtype=half)
    network = keras.Sequential([keras.layers.Input([2]), ode, keras.layers.Dense(1)])
    adam = keras.optimizers.Adam(0.01)
    if policy == "mixed_float16":
        adam = keras.optimizers.LossScaleOptimizer(adam, initial_scale=2.0**24)
    network.compile(adam, "mse")
    history = network.fit(X, Y, batch_size=8, epochs=8, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert all(v.dtype == "float32" for v in network.trainable_variables)


def test_changed_settings_take_effect_in_every_way_of_running():
    network = model(solver="dopri5", steps=None, rtol=1e-2, atol=1e-2)
    ode = network.layers[0]
    network.compile("sgd", "mse")
    network.fit(X, Y, epochs=1, verbose=0)

    def results():
        network.make_predict_function(force=True)  # Keras keeps what it has traced
        return [network(X).numpy(), network.predict(X, verbose=0), tf.function(network)(X).numpy()]

    seen = []
    for change in ({}, {"rtol": 1e-6, "atol": 1e-6}, {"steps": 1}, {"solver": "euler"}):
        for name, value in change.items():
            setattr(ode, name, value)
        eager, predicted, graph = results()
        np.testing.assert_allclose(predicted, eager, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(graph, eager, rtol=1e-5, atol=1e-6)
        assert all(np.abs(eager - other).max() > 1e-6 for other in seen), change
        seen.append(eager)


def test_tolerances_may_be_numpy_numbers_and_are_saved_as_plain_ones(tmp_path):
    network = model(solver="dopri5", steps=None, rtol=np.float32(1e-3), atol=np.array(1e-4))
    network.save(tmp_path / "model.keras")
    ode = keras.models.load_model(tmp_path / "model.keras").layers[0]
    assert (ode.rtol, ode.atol) == (float(np.float32(1e-3)), 1e-4)


def in_a_process(program, folder, *arguments):
    """What a Python program prints that runs in a folder of its own, without this project."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TF_CONFIG")}
    run = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


SERVE = """
import sys
import numpy as np
import tensorflow as tf

try:
    import node_lib
except ImportError:
    pass
else:
    raise SystemExit("node_lib is on the path")
x = np.load("x.npy")
names = ("exported", "exported adaptive", "saved")
served = {name: tf.saved_model.load(name) for name in names}
np.savez("served.npz", **{
    f"{name} {batch}": module.serve(x[:batch])
    for name, module in served.items()
    for batch in (1, 5, 32)
})
"""


class Served(tf.Module):
    """A layer as tf.saved_model.save wants it: a module with a function of known signature."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.serve = tf.function(layer, input_signature=[tf.TensorSpec([None, 2])])


def test_a_saved_model_serves_without_node_lib(tmp_path):
    models = {
        "exported": model(),
        "exported adaptive": model(solver="dopri5", steps=None, per_sample=True),
        "saved": model(solver="heun", gradient="reversible"),
    }
    models["exported"].export(tmp_path / "exported", verbose=False)
    models["exported adaptive"].export(tmp_path / "exported adaptive", verbose=False)
    tf.saved_model.save(Served(models["saved"]), str(tmp_path / "saved"))
    np.save(tmp_path / "x.npy", X)
    in_a_process(SERVE, tmp_path)
    served = np.load(tmp_path / "served.npz")
    for name, network in models.items():
        for batch in (1, 5, 32):
            np.testing.assert_allclose(
                served[f"{name} {batch}"], network(X[:batch]), rtol=1e-5, atol=1e-6
            )


DISTRIBUTED = """
import sys

sys.path.insert(0, sys.argv[1])
import keras
import numpy as np
import tensorflow as tf

from node_lib import ConcatTime, NeuralODE

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
x = np.load("x.npy")
y = x[:, :1] * x[:, 1:]


def trained(strategy, options):
    with strategy.scope():
        keras.utils.set_random_seed(1)
        net = keras.Sequential(
            [keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(2)]
        )
        ode = NeuralODE(ConcatTime(net), **options)
        network = keras.Sequential([keras.layers.Input([2]), ode, keras.layers.Dense(1)])
        network.compile(keras.optimizers.SGD(0.1), "mse")
    network.fit(x, y, batch_size=32, epochs=3, shuffle=False, verbose=0)
    return [np.array(w) for w in network.get_weights()]


for options in (
    {"steps": 4, "gradient": "checkpoint"},
    {"solver": "dopri5", "steps": None, "gradient": "adjoint", "per_sample": True},
):
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert two.num_replicas_in_sync == 2
    one = tf.distribute.get_strategy()
    before, after = trained(one, options), trained(two, options)
    worst = max(float(np.abs(a - b).max()) for a, b in zip(before, after))
    assert worst < 1e-5, (options, worst)
    print(options, worst)
"""


def test_two_devices_train_as_one(tmp_path):
    """MirroredStrategy: half of each batch on each device, and the weights of the whole batch."""
    np.save(tmp_path / "x.npy", X)
    project = pathlib.Path(__file__).parents[1]
    assert in_a_process(DISTRIBUTED, tmp_path, project).count("{") == 2
