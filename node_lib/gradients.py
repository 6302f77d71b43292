"""Gradients on the fixed grid: backprop, checkpoint, adjoint and reversible (Chapters 4 to 7).

Every mode returns the states at the times t and defines, for cotangents of those states, the
gradients of z0, of t and of all that func reads. The modes differ in how they run an interval
backward: one function each, below.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import tensorflow as tf

from . import reversible
from .fixed_grid import FixedGrid, Rows, States, count, repeat, rescaled, write
from .solvers import RungeKutta
from .tape import add, differentiable, reads, vjp, zeros_like

Gradient = Literal["backprop", "checkpoint", "adjoint", "reversible"]
GRADIENTS: tuple[Gradient, ...] = get_args(Gradient)


def solve(grid: FixedGrid, z0: States, t: tf.Tensor, gradient: Gradient) -> States:
    """The states at the times t, each [T, ...], differentiable by the mode named."""
    if gradient == "backprop":
        return grid.states(z0, t)
    read, func = reads(grid.func, t[0], z0)
    ahead = dataclasses.replace(grid, func=func)
    mode = {
        "checkpoint": _checkpoint,
        "adjoint": _adjoint,
        "reversible": reversible.interval_backward,
    }[gradient]

    def forward(*inputs: tf.Tensor) -> tuple[States, States]:
        *z0, t = inputs
        if gradient == "reversible":
            y, z = reversible.states(ahead, z0, t)
            return y, [*y, *z]
        kept = ahead.states(z0, t, keep_every_step=gradient == "checkpoint")
        if gradient == "checkpoint":
            shapes = [[t.shape[0], *k.shape[1:]] for k in kept]
            rows = [tf.ensure_shape(k[:: grid.steps], s) for k, s in zip(kept, shapes, strict=True)]
            return rows, kept
        return kept, kept

    def backward(kept: States, inputs: States, cotangents: States) -> States:
        run = functools.partial(mode, grid, kept, read)
        return over_intervals(run, inputs[-1], read, cotangents)

    return differentiable(gradient, forward, backward, [*z0, t], read)


def over_intervals(
    interval: Callable[..., tuple[States, States, States]],
    t: tf.Tensor,
    read: list[Any],
    cotangents: States,
) -> States:
    """Gradients of z0, t and of what func reads, from the last interval to the first.

    interval(i, t0, dt, a, grads) runs interval i backward: it turns a(t_i+1) into a(t_i), gives
    the gradients of t0 and dt, and adds those of what func reads to grads.
    """
    intervals = count(t) - 1
    times = [Rows(intervals, t[0]), Rows(intervals, t[0])]

    def one_interval(j: tf.Tensor, state: Any) -> Any:
        a, grads, times = state
        i = intervals - 1 - j
        a, g_times, grads = interval(i, t[i], t[i + 1] - t[i], a, grads)
        a = add(a, [c[i] for c in cotangents])  # the jump at t_i (5.18)
        return a, grads, write(times, i, g_times)

    at_end = [c[-1] for c in cotangents]  # (5.6)
    start = (at_end, zeros_like(read, t.dtype), times)
    a, grads, times = repeat(intervals, one_interval, start)
    g_t0, g_dt = (row.stack() for row in times)
    # t_i is the start of interval i and, through dt = t_i+1 - t_i, an end of two intervals (5.17).
    zero = tf.zeros_like(t[:1])
    g_t = tf.concat([g_t0 - g_dt, zero], axis=0) + tf.concat([zero, g_dt], axis=0)
    return [*a, g_t, *grads]  # a is dL/dz0 (5.10)


def _checkpoint(
    grid: FixedGrid,
    kept: States,
    read: list[Any],
    i: Any,
    t0: Any,
    dt: Any,
    a: States,
    grads: States,
) -> tuple[States, States, States]:
    """Take every step of interval i again, from the state kept before it, and run it backward.

    a_n^T = a_n+1^T dPhi/dz_n,    z_n+1 = Phi(z_n)                                   (5.22)
    """

    def one_step(j: tf.Tensor, state: Any) -> Any:
        a, gs = state
        n = grid.steps - 1 - j
        zs = [k[i * grid.steps + n] for k in kept]
        _, more = vjp(lambda: grid.advance(t0, dt, n, zs), [*zs, t0, dt, *read], a)  # (5.22)
        return more[: len(a)], add(gs, more[len(a) :])

    start = [*zeros_like([t0, dt], a[0].dtype), *grads]
    a, gs = repeat(grid.steps, one_step, (a, start))
    return a, gs[:2], gs[2:]


def _adjoint(
    grid: FixedGrid,
    kept: States,
    read: list[Any],
    i: Any,
    t0: Any,
    dt: Any,
    a: States,
    grads: States,
) -> tuple[States, States, States]:
    """Solve the state and its adjoint backward over interval i, from s = 1 to s = 0.

        dz/ds = F(s, z),    da/ds = -a^T dF/dz,    dg/ds = -a^T dF/d(t0, dt, theta)  (5.19)

    from the state that the forward solve returned at s = 1. g of theta goes on from the interval
    before: the integral (5.7) runs over all of them.
    """
    F, size = rescaled(grid.func, t0, dt), len(a)  # (5.13)
    h = tf.constant(-1.0 / grid.steps, a[0].dtype)

    def augmented(s: tf.Tensor, state: list[States]) -> list[States]:
        zs, a, _ = state
        # The minus sign of (5.19) goes into the cotangent: one tape gives F and all products.
        dz, gs = vjp(lambda: F(s, zs), [*zs, t0, dt, *read], [-x for x in a])
        return [dz, gs[:size], gs[size:]]  # (5.19): dz/ds, da/ds, dg/ds

    # At s = 1: z, a, and g = 0 (5.19).
    start = [[k[i + 1] for k in kept], a, [*zeros_like([t0, dt], h.dtype), *grads]]
    # A user's step function that was written for one tensor gets one tensor.
    one_tensor = not (isinstance(grid.step, RungeKutta) or tf.nest.is_nested(grid.pack(a)))
    to_step, from_step = _as_vector(start) if one_tensor else (_same, _same)

    def one_step(n: tf.Tensor, state: Any) -> Any:
        s = 1.0 + tf.cast(n, h.dtype) * h  # from 1 to 0, h < 0
        return grid.step(lambda s, x: to_step(augmented(s, from_step(x))), s, h, state)

    _, a, gs = from_step(repeat(grid.steps, one_step, to_step(start)))
    # At s = 0: a(t_i), dL/d(t0, dt) (5.14) (5.15), dL/dtheta (5.7).
    return a, gs[:2], gs[2:]


def _same(state: Any) -> Any:
    return state


def _as_vector(like: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Two functions: from a structure like the one given to one flat vector, and back."""
    leaves = tf.nest.flatten(like)
    sizes = [tf.size(x) for x in leaves]

    def to_vector(structure: Any) -> tf.Tensor:
        return tf.concat([tf.reshape(x, [-1]) for x in tf.nest.flatten(structure)], axis=0)

    def from_vector(vector: tf.Tensor) -> Any:
        parts = zip(tf.split(vector, sizes, num=len(leaves)), leaves, strict=True)
        shaped = [tf.reshape(part, tf.shape(x)) for part, x in parts]
        for part, x in zip(shaped, leaves, strict=True):
            part.set_shape(x.shape)
        return tf.nest.pack_sequence_as(like, shaped)

    return to_vector, from_vector
