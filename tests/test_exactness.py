"""Every gradient mode against every kind of input, in one loss, in every way of running.

The state has a structure, func reads a variable, one that is not trainable and a tensor that it
closes over, and the loss reads every state at every time.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf

from node_lib import odeint, reversible, rk4
from node_lib.fixed_grid import FixedGrid

rng = np.random.default_rng(11)
RUNS = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}
# Some samples forward, some backward, one with two equal times.
OWN = np.cumsum(rng.uniform(0.1, 0.5, size=(4, 3, 1)) * np.array([[1.0], [-1.0], [1.0]]), axis=0)
OWN[2, 2] = OWN[1, 2]
TIMES = {
    "shared": np.array([0.0, 0.3, 0.3, 1.1]),
    "backward": np.array([1.0, 0.7, 0.2, -0.3]),
    "own": OWN,
}
INPUTS = {
    "z0 p": rng.normal(size=(3, 2)),
    "z0 q": rng.normal(size=(3, 1, 2)),
    "closed over": rng.normal(size=(2, 2)),
    "trainable": rng.normal(size=(2, 2)),
    "not trainable": rng.normal(size=2),
}
COTANGENTS = [rng.normal(size=(4, 3, 2)), rng.normal(size=(4, 3, 1, 2))]
VARIABLES = {
    name: tf.Variable(INPUTS[name], trainable=name == "trainable")
    for name in ("trainable", "not trainable")
}
FIXED = {"solver": "rk4", "steps": 3}
ADAPTIVE = {"solver": "dopri5", "rtol": 1e-4, "atol": 1e-4, "max_steps": 60}


def dynamics(closed_over):
    def func(t, z):
        p, (q,) = z["p"], z["q"]
        own = t if t.shape.rank == 0 else t[:, :, None]
        dp = tf.tanh(p @ VARIABLES["trainable"] + t * q[:, 0]) - p * closed_over[0]
        dq = tf.sin(q @ closed_over) * own + p[:, None] * VARIABLES["not trainable"]
        return {"p": dp, "q": [dq]}

    return func


def through_the_reversible_scheme(func, z0, t, steps):
    """The scheme's states, for the tape to go through every operation of it."""

    def flat(t, zs):
        return tf.nest.flatten(func(t, {"p": zs[0], "q": [zs[1]]}))

    def pack(zs):
        return {"p": zs[0], "q": [zs[1]]}

    grid = FixedGrid(flat, rk4, steps, pack)
    return pack(reversible.states(grid, tf.nest.flatten(z0), t)[0])


def loss(arguments, p, q, closed_over, t):
    func, z0 = dynamics(closed_over), {"p": p, "q": [q]}
    if arguments.get("gradient") == "the scheme":
        z = through_the_reversible_scheme(func, z0, t, arguments["steps"])
    else:
        z = odeint(func, z0, t, **arguments)
    return sum(tf.reduce_sum(c * x) for c, x in zip(COTANGENTS, tf.nest.flatten(z), strict=True))


@functools.cache
def gradients(times, gradient, run="graph", adaptive=False, per_sample=False):
    """Of z0 (both leaves), the tensor closed over, t, and both variables."""
    arguments = {**(ADAPTIVE if adaptive else FIXED), "gradient": gradient}
    arguments["per_sample"] = per_sample

    @RUNS[run]
    def solve(*tensors):
        with tf.GradientTape() as tape:
            sources = [*tensors, *VARIABLES.values()]
            tape.watch(sources)
            value = loss(arguments, *tensors)
        return tape.gradient(value, sources)

    found = solve(*tensors(times))
    return dict(zip([*list(INPUTS)[:3], "t", *VARIABLES], (g.numpy() for g in found), strict=True))


def tensors(times):
    return [tf.constant(x) for x in [*list(INPUTS.values())[:3], TIMES[times]]]


def worst(exact, ours):
    """The largest difference in any input's gradient, relative to the largest entry of it."""
    return max(np.abs(exact[name] - ours[name]).max() / np.abs(exact[name]).max() for name in exact)


@pytest.mark.parametrize(
    ("gradient", "exact", "how", "times"),
    [
        pytest.param("checkpoint", "backprop", {}, "shared", marks=pytest.mark.long),
        ("checkpoint", "backprop", {}, "own"),
        pytest.param("reversible", "the scheme", {}, "backward", marks=pytest.mark.long),
        ("reversible", "the scheme", {}, "own"),
        pytest.param(
            "checkpoint", "backprop", {"adaptive": True}, "backward", marks=pytest.mark.long
        ),
        ("checkpoint", "backprop", {"adaptive": True}, "own"),
        pytest.param(
            "checkpoint",
            "backprop",
            {"adaptive": True, "per_sample": True},
            "shared",
            marks=pytest.mark.long,
        ),
        ("checkpoint", "backprop", {"adaptive": True, "per_sample": True}, "own"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_the_exact_modes_are_the_tape(gradient, exact, how, times):
    difference = worst(gradients(times, exact, **how), gradients(times, gradient, **how))
    print(f"{gradient}, {times}, {how}: {difference:.1e}")
    assert difference < 1e-12


@pytest.mark.parametrize("run", ["eager", "xla"])
@pytest.mark.parametrize(
    ("gradient", "how"),
    [
        ("checkpoint", {}),
        ("reversible", {}),
        ("adjoint", {}),
        pytest.param("checkpoint", {"adaptive": True, "per_sample": True}, marks=pytest.mark.long),
    ],
    ids=["checkpoint", "reversible", "adjoint", "per_sample"],
)
def test_every_way_of_running_gives_the_same(gradient, how, run):
    difference = worst(gradients("own", gradient, **how), gradients("own", gradient, run, **how))
    print(f"{gradient}, {run}, {how}: {difference:.1e}")
    assert difference < 1e-12


@pytest.mark.parametrize("gradient", ["checkpoint", "reversible"])
def test_the_exact_modes_are_central_differences(gradient):
    """Along two random directions of all inputs at once, by differences of order 4."""
    times, arguments = "own", {**FIXED, "gradient": gradient}
    start, before = tensors(times), [tf.identity(v) for v in VARIABLES.values()]
    value = tf.function(functools.partial(loss, arguments))
    grads = gradients(times, gradient)
    for seed in range(2):
        draw = np.random.default_rng(seed).normal
        directions = [draw(size=x.shape) for x in [*start, *before]]
        directions[3][2, 2] = directions[3][1, 2]  # two equal times stay equal

        def at(amount, directions=directions):
            moved = [x + amount * d for x, d in zip([*start, *before], directions, strict=True)]
            for variable, x in zip(VARIABLES.values(), moved[4:], strict=True):
                variable.assign(x)
            return float(value(*moved[:4]))

        h = 1e-3
        coarse, fine = ((at(e) - at(-e)) / (2 * e) for e in (h, h / 2))
        at(0.0)
        slope = sum(np.sum(g * d) for g, d in zip(grads.values(), directions, strict=True))
        np.testing.assert_allclose(slope, (4 * fine - coarse) / 3, rtol=1e-8)


@pytest.mark.parametrize("per_sample", [pytest.param(False, marks=pytest.mark.long), True])
def test_the_adaptive_adjoint_tends_to_the_exact_gradient(per_sample):
    """Where each sample has its own times and direction: with the tolerance."""

    def function(gradient):
        @tf.function
        def solve(tolerance, *tensors):
            with tf.GradientTape() as tape:
                sources = [*tensors[:3], *VARIABLES.values()]
                tape.watch(sources)
                arguments = {**ADAPTIVE, "rtol": tolerance, "atol": tolerance, "max_steps": 500}
                arguments |= {"gradient": gradient, "per_sample": per_sample}
                value = loss(arguments, *tensors)
            return tape.gradient(value, sources)

        return solve

    modes, differences = [function("checkpoint"), function("adjoint")], []
    for tolerance in (1e-5, 1e-7, 1e-9):
        amount = tf.constant(tolerance, tf.float64)
        exact, adjoint = (
            dict(enumerate(g.numpy() for g in mode(amount, *tensors("own")))) for mode in modes
        )
        differences.append(worst(exact, adjoint) / tolerance)
    print(f"adjoint, per_sample={per_sample}: differences / tolerance", differences)
    assert max(differences) < 200
