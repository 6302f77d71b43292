"""Gradients of an adaptive solve: backprop, checkpoint and adjoint (Chapters 7 and 9)."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from . import checks
from .adaptive import Adaptive, Output, State, dense_rows, polynomial, rms, slope_rows
from .fixed_grid import FlatFunc, States, count, repeat, rescaled
from .gradients import Gradient, over_intervals
from .solvers import advance, align
from .tape import add, differentiable, gradient_of, reads, vjp, zeros_like


def solve_adaptive(
    solver: Adaptive,
    func: FlatFunc,
    z0: States,
    t: tf.Tensor,
    gradient: Gradient,
    may_raise: bool = True,
) -> tuple[States, tf.Tensor]:
    """The states at the times t, each [T, ...], and attempts, accepted, status, s and h.

    The span from t[0] to t[-1] becomes s in [0, 1], so the times enter through t0, the span and
    the positions of the requested times in it. The accepted step sizes count as constants.
    """
    t0, span, positions = _clock(t)
    if gradient == "backprop":
        state, rows = solver.solve(rescaled(func, t0, span), z0, positions)
        return rows, _report(state)
    read, ahead = reads(func, t0, z0)
    record, size = gradient == "checkpoint", len(z0)

    def forward(*inputs: tf.Tensor) -> tuple[States, States]:
        *z0, t = inputs
        t0, span, positions = _clock(t)
        state, rows = solver.solve(rescaled(ahead, t0, span), z0, positions, record=record)
        outputs = [*rows, _report(state)]
        return outputs, [*outputs, *(step.stack() for step in state.steps)]

    def backward(kept: States, inputs: States, cotangents: States) -> States:
        t, cotangents = inputs[-1], cotangents[:size]
        if not record:
            return _adjoint(solver, func, kept[:size], t, read, cotangents, may_raise)
        attempts, accepted, *_ = tf.unstack(kept[size])
        taken = tf.reduce_max(attempts) if solver.per_sample else accepted
        taken = tf.cast(taken, tf.int32)
        return _checkpoint(solver, func, kept[size + 1 :], taken, t, read, cotangents)

    *rows, report = differentiable(gradient, forward, backward, [*z0, t], read)
    return rows, tf.stop_gradient(report)


def _clock(t: tf.Tensor) -> States:
    """t[0], the span from t[0] to t[-1], and the positions of all times in it, from 0 to 1."""
    t0, span = t[0], t[-1] - t[0]
    inside = (t[:-1] - t0) / tf.where(span == 0, tf.ones_like(span), span)
    return [t0, span, tf.concat([inside, tf.ones_like(t[:1])], axis=0)]


def _report(state: State) -> tf.Tensor:
    """Numbers in place of a State, which may be returned like any output: [5] or [5, batch, 1]."""
    counts = [state.attempts, state.accepted, state.status]
    # Half precision cannot count.
    dtype = tf.float32 if state.s.dtype.size < 4 else state.s.dtype
    numbers = [tf.cast(n, dtype) for n in [*counts, state.s, state.h]]
    return tf.stop_gradient(tf.stack(numbers))


def _checkpoint(
    solver: Adaptive,
    func: FlatFunc,
    steps: States,
    taken: tf.Tensor,
    t: tf.Tensor,
    read: list[Any],
    cotangents: States,
) -> States:
    """Take every step again, from the state kept before it, and run it backward.

    This is (5.22) with the accepted step sizes held fixed. The end of a step is
    z + h sum_i b_i k_i (3.8), and a state inside it z + h sum_i b_i(theta) k_i. So
    the cotangents of both become cotangents of z and of the slopes, and one vector-Jacobian
    product of the slopes serves them all.
    """
    t0, span, positions = _clock(t)
    method, final = solver.method, count(positions) - 1
    dense = positions.shape[0] != 2
    output = Output(solver, func, positions)
    first, last = output.reach
    weights = [float(b) for b in method.b]

    def slopes(s: Any, h: Any, z: States) -> list[States]:
        F = rescaled(func, t0, span)
        ks = solver.stages(F, s, h, z, F(s, z))
        if not dense:
            return ks[: 1 + max(i for i, b in enumerate(weights) if b)]
        if method.dense is None:
            return [*ks, F(s + h, advance(z, h, method.b, ks))]
        return solver.dense_stages(F, s, h, z, ks)

    def one_step(j: tf.Tensor, state: Any) -> Any:
        a, g_positions, grads = state
        n = taken - 1 - j
        s, h, *z = [step[n] for step in steps]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            sources = [*z, t0, span, *read]
            tape.watch(sources)
            ks = slopes(s, h, z)
        padded = [*weights, *[0.0] * (len(ks) - len(weights))][: len(ks)]
        to_slopes = [[align(h, x) * b * x for x in a] for b in padded]
        if dense:
            a, to_slopes, g_positions = inside(s, h, ks, a, to_slopes, g_positions)
        gs = gradient_of(tape, ks, sources, to_slopes)
        return add(a, gs[: len(a)]), g_positions, add(grads, gs[len(a) :])

    def inside(
        s: Any, h: Any, ks: list[States], a: States, to_slopes: Any, g_positions: Any
    ) -> Any:
        """Add what the states requested inside this step send back."""
        end = s + h
        rows, rates = dense_rows(method), slope_rows(method)

        def due(j: tf.Tensor, *_: Any) -> tf.Tensor:
            return (j < final) & (first[tf.minimum(j, final)] <= tf.reduce_max(end))

        def one_row(j: tf.Tensor, a: States, to_slopes: Any, g_positions: tf.Tensor) -> Any:
            theta = (positions[j] - s) / tf.where(h == 0, tf.ones_like(h), h)
            mine = (h > 0) & output.inside(j, s, end)
            cs = [tf.where(align(mine, c[j]), c[j], tf.zeros_like(c[j])) for c in cotangents]
            sent = [[align(h * theta * polynomial(theta, row), c) * c for c in cs] for row in rows]
            moved = [
                tf.add_n(
                    [align(polynomial(theta, r), c) * k[i] for r, k in zip(rates, ks, strict=True)]
                )
                for i, c in enumerate(cs)
            ]
            g = tf.add_n([_sum_like(c * m, theta) for c, m in zip(cs, moved, strict=True)])
            g_positions = tf.tensor_scatter_nd_add(g_positions, [[j]], [g])
            to_slopes = [add(x, y) for x, y in zip(to_slopes, sent, strict=True)]
            return j + 1, add(a, cs), to_slopes, g_positions

        start = tf.maximum(tf.reduce_sum(tf.cast(last < tf.reduce_min(s), tf.int32)), 1)
        _, a, to_slopes, g_positions = tf.while_loop(
            due, one_row, (start, a, to_slopes, g_positions), maximum_iterations=final
        )
        return a, to_slopes, g_positions

    start = (
        [c[-1] for c in cotangents],
        tf.zeros_like(positions),
        zeros_like([t0, span, *read], t.dtype),
    )
    a, g_positions, grads = repeat(taken, one_step, start, at_most=solver.max_steps)
    _, g_t = vjp(lambda: _clock(t), [t], [*grads[:2], g_positions])
    return [*add(a, [c[0] for c in cotangents]), *g_t, *grads[2:]]


def _sum_like(x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Sum x over the axes along which like, aligned at the first axis, has one entry."""
    if len(like.shape) == 0:
        return tf.reduce_sum(x)
    shape = list(align(like, x).shape)
    axes = [i for i, n in enumerate(shape) if n == 1 and i > 0]
    return tf.reshape(tf.reduce_sum(x, axis=axes, keepdims=True) if axes else x, tf.shape(like))


def _adjoint(
    solver: Adaptive,
    func: FlatFunc,
    states: States,
    t: tf.Tensor,
    read: list[Any],
    cotangents: States,
    may_raise: bool,
) -> States:
    """Solve state and adjoint backward over each interval, with steps of its own.

    With sigma = 1 - s the clock runs forward again, and the signs of the adjoint turn:

        dz/dsigma = -F,    da/dsigma = a^T dF/dz,    dg/dsigma = a^T dF/d(t0, dt, theta)  (5.20)

    The error norm takes z and a and leaves the quadratures g out.
    """
    size, method = len(states), solver.method

    def interval(i: tf.Tensor, t0: Any, dt: Any, a: States, grads: States) -> Any:
        F = rescaled(func, t0, dt)  # (5.13)
        z = [x[i + 1] for x in states]
        clock = solver.clock(z)
        # Cotangents of a mean loss are small, and an absolute tolerance would be large beside
        # them. All of this is linear in a (5.21), so a is solved at the size of z.
        size_z, size_a = tf.maximum(rms(z, clock), tf.ones_like(clock)), rms(a, clock)
        scale = tf.where(size_a > 0, size_z / size_a, tf.ones_like(size_a))
        # theta belongs to all samples: where these have clocks of their own, its gradient is
        # added up beside the state, each sample's part when its step is accepted.
        inside, beside = ([], read) if solver.per_sample else (read, [])

        def augmented(sigma: tf.Tensor, state: States) -> States:
            z, a = state[:size], state[size : 2 * size]
            dz, gs = vjp(lambda: F(1 - sigma, z), [*z, t0, dt, *inside], a)
            return [*(-x for x in dz), *gs]  # (5.20): dz, da and dg over dsigma

        def parameters(
            total: States, sigma: Any, h: Any, state: States, ks: list[States]
        ) -> States:
            """One step of dg/dsigma = a^T dF/dtheta (5.20): g + h sum_j b_j k_j (3.8)."""
            for j, (b, c) in enumerate(zip(method.b, method.c, strict=True)):
                if b:
                    stage = advance(state, h, method.a[j], ks[:j])
                    weight = h * float(b) / scale  # (5.21)
                    sent = [align(weight, x) * x for x in stage[size : 2 * size]]
                    at, z = 1 - (sigma + float(c) * h), stage[:size]  # s = 1 - sigma (5.20)
                    _, gs = vjp(functools.partial(F, at, z), beside, sent)
                    total = add(total, gs)
            return total

        # At sigma = 0, which is s = 1: z, a scaled (5.21), and g = 0 (5.20).
        start = [*z, *(align(scale, x) * x for x in a), *zeros_like([t0, dt, *inside], t.dtype)]
        state, rows = solver.solve(
            augmented,
            start,
            tf.stack([clock, clock + 1]),
            measured=2 * size,
            quadrature=parameters if beside else None,
            total=grads if beside else [],
        )
        if may_raise:
            # A cotangent that is not finite gives no finite gradient, and no failure: a loss that
            # is scaled for half precision may overflow now and then.
            given = [tf.reduce_all(tf.math.is_finite(x)) for x in a]
            report = _report(state)
            report = tf.where(tf.reduce_all(given), report, tf.ones_like(report))
            what = 'gradient="adjoint", solved backward: '
            checks.arrived(report, tf.stack([t0 + dt, t0]), solver.max_steps, what)
        gs = [row[-1] for row in rows[size:]]
        gs = [g / align(scale, g) for g in gs]  # (5.21)
        if beside:
            arrived = tf.reduce_all(state.s >= 1)
            nan = tf.constant(float("nan"), t.dtype)
            grads = [tf.where(arrived, g, nan) for g in state.total]
        else:
            grads = add(grads, gs[size + 2 :])  # the integral (5.7), over all intervals
        # At s = 0: a(t_i), dL/d(t0, dt) (5.14) (5.15), dL/dtheta (5.7).
        return gs[:size], gs[size : size + 2], grads

    return over_intervals(interval, t, read, cotangents)
