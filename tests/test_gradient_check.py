"""check_gradients finds planted mistakes, and nothing where the gradient is right."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from node_lib import Autonomous, NeuralODE, check_gradients

X = tf.constant([[0.3, -1.2], [2.0, 0.7], [-0.4, 0.1]], tf.float64)
Y = tf.constant([[0.5], [-1.5], [0.8]], tf.float64)


def product(x, y):
    return tf.reduce_sum(tf.sin(x) * tf.exp(y))


def with_gradient(planted):
    """product, with planted(g_x, g_y) for its gradients."""

    @tf.custom_gradient
    def function(x, y):
        def grad(a):
            g_x = tf.cos(x) * tf.exp(y)
            g_y = tf.reduce_sum(tf.sin(x) * tf.exp(y), axis=1, keepdims=True)
            return [g if g is None else a * g for g in planted(g_x, g_y)]

        return product(x, y), grad

    return function


def one_wrong_entry(g, error=1e-4):
    return g + tf.scatter_nd([[2, 0]], tf.constant([error], g.dtype), g.shape)


def test_right_gradients_pass_far_below_the_tolerance():
    report = check_gradients(product, [X, Y])
    assert [row.name for row in report] == ["x", "y"]
    assert report.worst < 1e-10
    assert str(report).count("right") == 2 and str(report).count("< 1e-09") == 2
    assert check_gradients(with_gradient(lambda g_x, g_y: (g_x, g_y)), [X, Y]).worst < 1e-10


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        (lambda g_x, g_y: (-g_x, g_y), r"gradient of x at entry \[\d, \d\] is"),
        (lambda g_x, g_y: (g_x, tf.ones_like(g_y)), r"gradient of y at entry \[\d, 0\] is 1, and"),
        (lambda g_x, g_y: (g_x, g_y / 3), "gradient of y"),
        (lambda g_x, g_y: (one_wrong_entry(g_x), g_y), r"gradient of x at entry \[2, 0\]"),
        (lambda g_x, g_y: (g_x, tf.reverse(g_y, [0])), "gradient of y"),
        (
            lambda g_x, g_y: (None, g_y),
            r"x has no gradient \(None\), and at entry \[\d, \d\] it is",
        ),
        (lambda g_x, g_y: (one_wrong_entry(g_x, np.nan), g_y), "x at entry .* is nan"),
    ],
    ids=["sign", "ones", "mean", "one entry", "samples swapped", "None", "NaN"],
)
def test_planted_mistakes_are_found_and_named(planted, message):
    with pytest.raises(AssertionError, match=message) as error:
        check_gradients(with_gradient(planted), [X, Y])
    assert len(str(error.value).splitlines()) == 1  # the other gradient is right
    report = check_gradients(with_gradient(planted), [X, Y], report_only=True)
    assert str(report).count("WRONG") == 1 and not report.worst < 1e-6


def test_both_values_are_in_the_sentence():
    with pytest.raises(AssertionError, match="entry .* is -3, and 3 by finite differences"):
        check_gradients(wrong_slope, tf.constant(2.0, tf.float64))


@tf.custom_gradient
def wrong_slope(x):
    return 3 * x, lambda a: -3 * a


def test_what_the_loss_does_not_depend_on_proves_nothing():
    with pytest.raises(AssertionError, match="does not depend on y: .* proves nothing"):
        check_gradients(lambda x, y: tf.reduce_sum(x**2), [X, Y])
    with pytest.raises(AssertionError, match="does not depend on y"):  # rounding is not dependence
        check_gradients(lambda x, y: tf.reduce_sum((x + y) ** 2 - y * (2 * x + y)), [X, Y])
    unused = tf.Variable(1.0, name="unused", dtype=tf.float64)
    with pytest.raises(AssertionError, match="does not depend on unused"):
        check_gradients(lambda x: x**2, X, variables=[unused])


def test_a_small_gradient_of_a_large_loss_is_not_called_wrong():
    assert check_gradients(lambda x: 1e6 + 1e-3 * tf.reduce_sum(tf.sin(x)), X).worst < 1e-2


@pytest.mark.parametrize("wrong", [False, True])
def test_a_large_tensor_is_checked_along_directions(wrong):
    weights = tf.random.stateless_normal([40, 50], [0, 1], dtype=tf.float64)
    calls = []

    @tf.custom_gradient
    def function(w):
        calls.append(1)
        g = weights * tf.cos(w)
        if wrong:  # one entry in 2,000
            g += tf.scatter_nd([[7, 7]], tf.constant([1e-2], g.dtype), g.shape)
        return tf.reduce_sum(weights * tf.sin(w)), lambda a: a * g

    w = tf.random.stateless_normal([40, 50], [0, 2], dtype=tf.float64)
    if wrong:
        with pytest.raises(AssertionError, match=r"gradient of w at direction \d"):
            check_gradients(function, w)
    else:
        assert check_gradients(function, w).worst < 1e-8
        assert len(calls) == 2 + 8 * 4


def test_a_kink_is_named():
    x = tf.constant([1e-4, 1.0, -1.0], tf.float64)
    with pytest.raises(AssertionError, match="entry .0. .* there is a kink near"):
        check_gradients(lambda x: tf.reduce_sum(tf.nn.relu(x)), x)
    assert check_gradients(lambda x: tf.reduce_sum(tf.nn.relu(x)), x, step=1e-5).worst < 1e-8


def test_structures_integers_bare_numbers_and_sparse_gradients():
    table = tf.Variable(X, name="table")
    state = {"p": X, "q": [Y]}

    def function(i, state, rate):
        return {"a": rate * tf.gather(table, i) * state["p"][0], "b": state["q"][0] ** 3}

    report = check_gradients(function, [tf.constant(1), state, 0.5], variables=[table])
    assert [r.name for r in report] == ["state, tensor 0", "state, tensor 1", "rate", "table"]
    assert report.worst < 1e-9
    assert np.array_equal(table, X)


@pytest.mark.parametrize("run", [lambda layer: layer, lambda layer: tf.function(layer.__call__)])
def test_a_line_for_a_layer(run):
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.layers.Dense(4, "tanh", dtype="float64"),
                            keras.layers.Dense(2, dtype="float64")])  # fmt: skip
    layer = NeuralODE(Autonomous(net, dtype="float64"), steps=3, dtype="float64")
    layer(X, Y)
    report = check_gradients(layer, [X, Y], variables=layer.trainable_variables)
    assert [row.name for row in report][:2] == ["z0", "dt"] and "kernel" in report[2].name
    assert report.worst < 1e-9


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(TypeError, match="x is float32: .* needs float64"):
        check_gradients(lambda x: x, tf.constant(1.0))
    with pytest.raises(TypeError, match="result of the function is float32"):
        check_gradients(lambda x: tf.cast(x, tf.float32), X)
    with pytest.raises(TypeError, match="kernel is float32"):
        check_gradients(lambda x: x, X, variables=[tf.Variable(1.0, name="kernel")])
    with pytest.raises(ValueError, match="the loss is nan"):
        check_gradients(lambda x: tf.math.log(x), X)
    with pytest.raises(ValueError, match="must be one number"):
        check_gradients(lambda x: x * tf.random.uniform([], dtype=x.dtype), X)


def test_variables_keep_their_values_when_the_function_fails():
    rate = tf.Variable(1.0, name="rate", dtype=tf.float64)

    def function():
        if rate != 1:
            raise RuntimeError("moved")
        return rate * 2

    with pytest.raises(RuntimeError, match="moved"):
        check_gradients(function, [], variables=[rate])
    assert float(rate) == 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=2),
    st.integers(0, 2**31 - 1),
    st.sampled_from([0.01, 1.0, 100.0]),
    st.floats(1e-4, 1.0),
)
def test_any_shape_and_size_and_any_wrong_entry(shape, seed, size, error):
    rng = np.random.default_rng(seed)
    x = tf.constant(size * rng.normal(size=shape))
    slopes = tf.constant(rng.uniform(0.5, 1, size=shape))
    planted = np.zeros(shape)
    if planted.size:
        planted.flat[rng.integers(planted.size)] = error

    def with_error(planted):
        @tf.custom_gradient
        def function(x):
            y = tf.reduce_sum(slopes * x + tf.sin(x) / 4)
            return y, lambda a: a * (slopes + tf.cos(x) / 4 + planted)

        return function

    if not planted.size:  # nothing to check
        assert check_gradients(with_error(planted), x) == ()
        return
    assert check_gradients(with_error(0 * planted), x).worst < 1e-6
    report = check_gradients(with_error(planted), x, report_only=True)
    assert report[0].problem and report.worst > error / 4


def test_random_cotangents_see_what_a_plain_sum_would_cancel():
    assert check_gradients(lambda x: tf.stack([tf.sin(x), -tf.sin(x)]), X).worst < 1e-9
