"""Random structures, shapes, dtypes, times and settings, against a plain loop in NumPy.

HYPOTHESIS_PROFILE=long runs 2,000 cases instead of 40.
"""

import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from node_lib import GRADIENTS, SOLVERS, odeint

# "reversible" has a scheme, and so states, of its own.
MODES = [gradient for gradient in GRADIENTS if gradient != "reversible"]
SHAPES = st.lists(st.integers(1, 3), max_size=2)
SETTINGS = st.fixed_dictionaries(
    {
        "solver": st.sampled_from(sorted(SOLVERS)),
        "steps": st.integers(1, 3),
        "gradient": st.sampled_from(MODES),
    }
)


@st.composite
def problems(draw):
    """A state z0, any structure of one dtype and batch size, and times for it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from(["float32", "float64"]))
    batch = draw(st.integers(1, 3))
    own_times = draw(st.booleans())

    def leaf(shape):
        # Own times, [T, batch, 1], need a feature axis to pair with.
        shape = [batch, *(shape or [2] * own_times)]
        return rng.normal(size=shape).astype(dtype)

    leaves = SHAPES.map(leaf)
    z0 = draw(
        st.recursive(
            leaves,
            lambda inner: (
                st.lists(inner, min_size=1, max_size=2)
                | st.lists(inner, min_size=1, max_size=2).map(tuple)
                | st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=2)
            ),
            max_leaves=3,
        )
    )
    count = draw(st.integers(2, 4))
    gaps = draw(st.sampled_from([-1, 1])) * rng.uniform(0.01, 0.5, size=(count, batch, 1))
    t = np.cumsum(gaps, axis=0) if own_times else np.cumsum(gaps[:, 0, 0])
    return z0, t.astype(dtype)


def pairs(t, z):
    """t as [batch, 1, ...] with as many axes as z."""
    return t if np.ndim(t) == 0 else t.reshape(len(t), *[1] * (np.ndim(z) - 1))


def func(t, z):
    def slope(x):
        own = t if t.shape.rank == 0 else tf.reshape(t, [-1] + [1] * (x.shape.rank - 1))
        return tf.sin(x) - own * x

    return tf.nest.map_structure(slope, z)


def plain_loop(z, t, method, steps):
    """One leaf by the textbook's loop, in double precision."""
    states = [np.float64(z)]
    for start, end in zip(t[:-1], t[1:], strict=True):
        z, h = states[-1], pairs((end - start) / steps, z)
        for n in range(steps):
            ks = []
            for row, c in zip(method.a, method.c, strict=True):
                at = pairs(start, z) + (n + float(c)) * h
                inner = z + h * sum(float(a) * k for a, k in zip(row, ks, strict=True))
                ks.append(np.sin(inner) - at * inner)
            z = z + h * sum(float(b) * k for b, k in zip(method.b, ks, strict=True))
        states.append(z)
    return np.stack(states)


@given(problems(), SETTINGS)
def test_odeint_is_the_plain_loop_on_each_leaf(problem, settings):
    z0, t = problem
    z = odeint(func, z0, t, **settings)
    tf.nest.assert_same_structure(z, z0)
    rtol = 1e-5 if t.dtype == "float32" else 1e-12
    for leaf, start in zip(tf.nest.flatten(z), tf.nest.flatten(z0), strict=True):
        expected = plain_loop(start, np.float64(t), SOLVERS[settings["solver"]], settings["steps"])
        assert leaf.dtype == start.dtype
        np.testing.assert_allclose(leaf, expected, rtol=rtol, atol=rtol)


@given(problems(), SETTINGS, st.sampled_from(["checkpoint", "backprop"]))
def test_the_exact_gradients_are_the_central_difference(problem, settings, gradient):
    """Along one random direction of z0 and t, of the same scheme."""
    point = tf.nest.map_structure(lambda x: tf.constant(x, tf.float64), problem)
    rng = np.random.default_rng(0)
    direction = tf.nest.map_structure(lambda x: rng.normal(size=x.shape), point)

    def loss(amount):
        z0, t = tf.nest.map_structure(lambda x, d: x + amount * d, point, direction)
        z = odeint(func, z0, t, **{**settings, "gradient": gradient})
        return sum(tf.reduce_sum(x**2) for x in tf.nest.flatten(z))

    amount = tf.constant(0.0, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(amount)
        value = loss(amount)
    numeric = (loss(1e-6) - loss(-1e-6)) / 2e-6
    np.testing.assert_allclose(tape.gradient(value, amount), numeric, rtol=1e-6, atol=1e-6)
