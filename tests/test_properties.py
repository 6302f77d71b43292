"""Random structures, shapes, dtypes, times and settings, against a plain loop in NumPy.

Adaptive steps against closed forms, random wrong arguments, and dynamics that fail.
HYPOTHESIS_PROFILE=long runs 2,000 cases of each instead of 40.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
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


# Adaptive steps: dz/dt = cos(t) z (1 - z), whose closed form is known for every z0 and span.
ADAPTIVE = st.fixed_dictionaries(
    {
        "solver": st.sampled_from(["bosh3", "dopri5", "tsit5", "dopri8"]),
        "gradient": st.sampled_from(MODES),
        "per_sample": st.booleans(),
        "rtol": st.sampled_from([1e-3, 1e-5, 1e-8]),
    }
)


def aligned(t, x):
    return t if t.shape.rank == 0 else tf.reshape(t, [-1] + [1] * (x.shape.rank - 1))


def logistic(t, z):
    return tf.nest.map_structure(lambda x: tf.cos(aligned(t, x)) * x * (1 - x), z)


def logistic_closed_form(z0, t):
    """One leaf, [T, ...], in double precision."""
    t = np.float64(t)
    grown = np.sin(t) - np.sin(t[0])
    grown = grown.reshape(*grown.shape[: 2 if t.ndim > 1 else 1], *[1] * np.ndim(z0))
    grown = grown.reshape(grown.shape[: 1 + np.ndim(z0)])
    return 1 / (1 + (1 / np.float64(z0) - 1) * np.exp(-grown))


@st.composite
def logistic_problems(draw):
    """States between 0.1 and 0.9, and times of which some may be equal."""
    z0, t = draw(problems())
    z0 = tf.nest.map_structure(lambda x: (0.1 + 0.8 / (1 + np.exp(-x))).astype(x.dtype), z0)
    stretch = draw(st.sampled_from([0.1, 1.0, 4.0]))
    t = (t * stretch).astype(t.dtype)
    if draw(st.booleans()):
        t = np.repeat(t, 2, axis=0)
    return z0, t


@given(logistic_problems(), ADAPTIVE)
def test_adaptive_steps_end_within_the_tolerance(problem, settings):
    z0, t = problem
    rtol = max(settings["rtol"], 1e-5) if t.dtype == "float32" else settings["rtol"]
    settings = {**settings, "rtol": rtol, "atol": rtol}
    z, stats = odeint(logistic, z0, t, **settings, return_stats=True)
    tf.nest.assert_same_structure(z, z0)
    for leaf, start in zip(tf.nest.flatten(z), tf.nest.flatten(z0), strict=True):
        assert leaf.dtype == start.dtype
        np.testing.assert_array_equal(leaf[0], start)
        np.testing.assert_allclose(leaf, logistic_closed_form(start, t), atol=30 * rtol)
    assert np.all(stats.accepted >= 1) and np.all(stats.rejected >= 0)


# Fewer, and only in the long search: the tape of an eager solve takes its time.
@pytest.mark.long
@settings(max_examples=max(10, settings.default.max_examples // 4))
@given(logistic_problems(), ADAPTIVE)
def test_adaptive_gradients_are_those_of_the_same_steps(problem, choice):
    """checkpoint is backprop to rounding; the adjoint is as near as the tolerance."""
    z0, t = tf.nest.map_structure(lambda x: tf.constant(x, tf.float64), problem)
    sources = [*tf.nest.flatten(z0), t]
    tolerance = max(choice["rtol"], 1e-5)
    kept = {**choice, "rtol": tolerance, "atol": tolerance}
    found = {}
    for gradient in MODES:
        with tf.GradientTape() as tape:
            tape.watch(sources)
            z = odeint(logistic, z0, t, **{**kept, "gradient": gradient})
            loss = sum(tf.reduce_sum(tf.sin(3 * x)) for x in tf.nest.flatten(z))
        found[gradient] = tape.gradient(loss, sources)
    for exact, ours in zip(found["backprop"], found["checkpoint"], strict=True):
        size = np.max(np.abs(exact), initial=1.0)
        np.testing.assert_allclose(ours, exact, rtol=1e-12, atol=1e-12 * size)
    # The gradient of a time is the slope of the dense output: one power of h less.
    for exact, adjoint in zip(found["backprop"][:-1], found["adjoint"][:-1], strict=True):
        np.testing.assert_allclose(adjoint, exact, atol=200 * tolerance * max(1, t.shape[0]))


# Wrong arguments. Each entry: what is passed in place of a good argument, and the word that the
# sentence must contain, or None where the argument is good.
PLAIN = {"func": lambda t, z: -z, "z0": np.ones((3, 2)), "t": [0.0, 1.0]}
NOT_A_NUMBER, INFINITE = float("nan"), float("inf")
CHOICES = {
    "func": [
        (lambda t, z: -1.0 * z, None),
        (lambda t, z: -z.numpy() if hasattr(z, "numpy") else -z, None),
        (3, "func"),
        (None, "func"),
        (lambda t, z: None, "func"),
        (lambda t, z: "slope", "func"),
        (lambda t, z: [-z], "func"),
        (lambda t, z: -z[..., :1], "func"),
        (lambda t, z: tf.cast(-z, tf.float16), "func"),
        (lambda t, z: tf.cast(-z, tf.complex64), "func"),
        (lambda t, z: z * NOT_A_NUMBER, "func"),
        (lambda t, z: z / 0.0, "func"),
    ],
    "z0": [
        (np.ones((3, 2), "float32"), None),
        (np.ones((0, 2)), None),
        (np.ones((1, 2)), None),
        (np.ones((3, 0)), None),
        (tf.Variable(tf.ones([3, 2])), None),
        (np.full((3, 2), 1e-30), None),
        (np.full((3, 2), 1e30), None),
        (np.ones((3, 2), int), "z0"),
        (np.ones((3, 2), bool), "z0"),
        (np.ones((3, 2), complex), "z0"),
        ("state", "z0"),
        (None, "z0"),
        ([], "z0"),
        ([None, np.ones((3, 2))], "z0"),
        ([1, 2.0], "z0"),
        ([[1.0], [1.0, 2.0]], "z0"),
        ({"a": np.ones((3, 2)), "b": np.ones((3, 2), "float32")}, "z0"),
        (np.array([[1.0, NOT_A_NUMBER]] * 3), "z0"),
        (np.array([[INFINITE, 1.0]] * 3), "z0"),
    ],
    "t": [
        ([0, 1], None),
        (range(2), None),
        (np.array([1, 0]), None),
        ([0.5, 0.5], None),
        ([0.0, 1e-30], None),
        ([0.0, 0.2, 0.2, 1.0], None),
        ([0.0], "t "),
        ([], "t "),
        (1.0, "t "),
        (None, "t "),
        ("times", "t "),
        (["a", "b"], "t "),
        ([0.0, 1j], "t "),
        ([[0.0], [0.0, 1.0]], "t "),
        ([0.0, 1.0, 0.5], "t "),
        ([0.0, NOT_A_NUMBER], "t "),
        ([-INFINITE, 0.0], "t "),
        (np.zeros((2, 5, 1)), "t "),
        (np.zeros((2, 3, 5)), "t "),
        (tf.constant([0, 1]), "t "),
        (tf.constant([0.0, 1.0], tf.float16), "t "),
    ],
    "solver": [
        ("tsit5", None),
        (SOLVERS["dopri8"], None),
        ("rk45", "solver"),
        ("", "solver"),
        (None, "solver"),
        (7, "solver"),
        ("rk4", "steps"),
        (lambda func, t, h, z: SOLVERS["rk4"](func, t, h, z), "steps"),
    ],
    "steps": [
        (40, None),
        (np.int64(40), None),
        (None, None),
        (0, "steps"),
        (-3, "steps"),
        (2.5, "steps"),
        ("5", "steps"),
        (True, "steps"),
        (10**12, "steps"),
    ],
    "rtol": [
        (1e-4, None),
        (np.float32(1e-4), None),
        (np.array(1e-4), None),
        (tf.constant(1e-4), None),
        (tf.constant(1e-4, tf.float64), None),
        (0, "rtol"),
        (-1e-3, "rtol"),
        (NOT_A_NUMBER, "rtol"),
        (INFINITE, "rtol"),
        (None, "rtol"),
        ("small", "rtol"),
        ([1e-3], "rtol"),
        (np.array([1e-3, 1e-4]), "rtol"),
        (tf.constant(-1.0), "rtol"),
        (1j, "rtol"),
        (True, "rtol"),
    ],
    "atol": [(1e-40, None), (1, None), (0.0, "atol"), (NOT_A_NUMBER, "atol"), ("a", "atol")],
    "gradient": [
        *((gradient, None) for gradient in MODES),
        ("magic", "gradient"),
        (None, "gradient"),
        (np.ones(2), "gradient"),
    ],
    "per_sample": [(True, None), ("no", "per_sample"), (None, "per_sample"), (1, "per_sample")],
    "max_steps": [
        (200, None),
        (np.int32(200), None),
        (1, "max_steps"),
        (0, "max_steps"),
        (1e3, "max_steps"),
        (10**12, "max_steps"),
        (None, "max_steps"),
    ],
    "on_failure": [("raise", None), ("ignore", "on_failure"), (None, "on_failure")],
}
ARGUMENTS = st.lists(st.sampled_from(sorted(CHOICES)), max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: st.sampled_from(CHOICES[name]) for name in names})
)
SENTENCES = (ValueError, TypeError, RuntimeError, tf.errors.InvalidArgumentError)


@given(ARGUMENTS, st.integers(0, 7).map(lambda n: n == 0))
def test_any_arguments_give_the_right_result_or_a_sentence(choices, in_a_graph):
    arguments = {**PLAIN, **{name: value for name, (value, _) in choices.items()}}
    # What else may be named: a tolerance too small for the type, or a limit that is met.
    words = {word for _, word in choices.values() if word}
    excused = {"step size fell", "func(t, z) gave"} if "atol" in choices else set()
    excused |= {"max_steps"} if "max_steps" in choices or "atol" in choices else set()
    func, z0, t = (arguments.pop(name) for name in PLAIN)
    solve = lambda: odeint(func, z0, t, **arguments)  # noqa: E731
    try:
        z = (tf.function(solve) if in_a_graph else solve)()
    except SENTENCES as error:
        said = str(error)
        assert any(word in said for word in words | excused), said
        return
    fixed, (most, _) = arguments.get("steps"), choices.get("max_steps", (None, None))
    # Fixed steps are what rk4 lacked, and do not look at max_steps; one step may be enough.
    allowed = ({"steps"} if fixed else set()) | ({"max_steps"} if fixed or most == 1 else set())
    if fixed and "func" in words and not np.isfinite(z[-1]).any():
        return  # an overflow on the fixed grid is infinite, as computed
    empty = np.size(z0) == 0 or np.ptp(np.array(t, float)) == 0
    assert not words - allowed or empty, f"no error, though wrong: {words}"
    tolerance = 10 * max(float(arguments.get("rtol", 1e-5)), 1e-5)
    scale = max(float(tf.reduce_max(tf.abs(z[0]))), 0.0) if np.size(z0) else 1.0
    atol = 10 * float(arguments.get("atol", 1e-6)) + tolerance * scale
    t = np.array(t, float)
    np.testing.assert_allclose(z[-1], np.exp(t[0] - t[-1]) * np.asarray(z0), atol=atol)


# Dynamics that fail: each sample in its own way, at its own time, in any unit of time and state.
RUNS_OF_FAILURES = [("dopri5", "float64"), ("dopri8", "float64"), ("tsit5", "float32")]
KINDS = ["fine", "nan", "infinite", "blow-up", "pole"]


@functools.cache
def failing(solver, dtype, per_sample, on_failure):
    """z(t) of the kind of each sample; at, scale and unit are in the unit of the state or time."""
    spec = lambda *shape: tf.TensorSpec(shape, dtype)  # noqa: E731

    @tf.function(
        input_signature=[
            *[spec(3, 1)] * 2,
            tf.TensorSpec([3, 1], tf.int32),
            *[spec()] * 2,
            spec(5),
            tf.TensorSpec([], dtype),
        ]
    )
    def solve(z0, at, kind, scale, unit, t, atol):
        def func(t, z):
            s = t / unit
            decay = -z
            bad = tf.where(kind == 1, NOT_A_NUMBER * z, INFINITE + z)
            slope = tf.where((kind > 0) & (s > at), bad, decay)
            slope = tf.where(kind == 3, z * (z / scale), slope)
            slope = tf.where(kind == 4, scale / (at - s) ** 2, slope)
            return slope / unit

        return odeint(
            func,
            z0,
            t,
            solver=solver,
            rtol=1e-5,
            atol=atol,
            per_sample=per_sample,
            on_failure=on_failure,
        )

    return solve


def failing_closed_form(z0, at, kind, s):
    """The states, [5, 3, 1], and when each sample fails, in units."""
    z = np.exp(-s) * z0
    z = np.where(kind == 3, z0 / (1 - s * z0), z)
    z = np.where(kind == 4, z0 + 1 / (at - s) - 1 / at, z)
    fails = np.where(kind == 0, INFINITE, np.where(kind == 3, 1 / z0, at))
    return z, fails


@given(
    st.sampled_from(RUNS_OF_FAILURES),
    st.booleans(),
    st.sampled_from(["raise", "nan"]),
    st.lists(st.sampled_from(range(5)), min_size=3, max_size=3),
    st.integers(-30, 30),
    st.integers(-30, 30),
    st.integers(0, 2**32 - 1),
)
def test_dynamics_that_fail_at_a_random_time(run, per_sample, on_failure, kinds, scale, unit, seed):
    solver, dtype = run
    if dtype == "float32":  # their product must not overflow
        scale, unit = scale // 2, unit // 2
    rng = np.random.default_rng(seed)
    kind = np.array(kinds)[:, None]
    z0, at = rng.uniform(0.3, 1.5, size=(2, 3, 1))
    s = np.array([0.0, *np.sort(rng.uniform(0.05, 2, size=3)), 2.0])
    z, fails = failing_closed_form(z0, at, kind, s[:, None, None])
    scale, unit = 10.0**scale, 10.0**unit
    numbers = [z0 * scale, at, kind, scale, unit, s * unit, 1e-5 * scale]
    types = [dtype, dtype, "int32", *[dtype] * 4]
    arguments = [tf.constant(x, kind) for x, kind in zip(numbers, types, strict=True)]
    solve = failing(solver, dtype, per_sample, on_failure)
    if on_failure == "raise" and fails.min() <= 2:
        with pytest.raises(tf.errors.InvalidArgumentError, match="t ="):
            solve(*arguments)
        return
    found = solve(*arguments).numpy() / scale
    limit = fails if per_sample else fails.min()
    near = (s[:, None, None] < 0.97 * limit) & np.ones_like(z, bool)
    past = (s[:, None, None] > 1.01 * limit) & np.ones_like(z, bool)
    np.testing.assert_allclose(found[near], z[near], rtol=2e-2)
    assert np.isnan(found[past]).all()


def test_a_fixed_grid_says_where_it_became_nan():
    func = lambda t, z: z * tf.math.sqrt(1.5 - t)  # noqa: E731
    arguments = {"solver": "rk4", "steps": 4}
    for solve in (odeint, tf.function(odeint)):
        with pytest.raises(SENTENCES, match="NaN at t =.*2"):
            solve(func, tf.ones([2]), tf.constant([0.0, 1.0, 2.0, 3.0]), **arguments)
    z = odeint(func, tf.ones([2]), [0.0, 1.0, 2.0], **arguments, on_failure="nan")
    assert np.isfinite(z[1]).all() and np.isnan(z[2]).all()
