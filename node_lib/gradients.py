"""Gradients of an ODE's solution: backprop, checkpoint and adjoint (Chapters 4 to 7).

Every mode returns the states at the times t and defines, for cotangents of those states, the
gradients of z0, of t and of all that func reads. The modes differ in how they run an interval
backward: one function each, below.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from .fixed_grid import FixedGrid, Rows, States, count, repeat, write
from .solvers import RungeKutta

GRADIENTS = ("backprop", "checkpoint", "adjoint")


def solve(grid: FixedGrid, z0: States, t: tf.Tensor, gradient: str) -> States:
    """The states at the times t, each [T, ...], differentiable by the mode named."""
    if gradient == "backprop":
        return grid.states(z0, t)
    mode = {"checkpoint": _checkpoint, "adjoint": _adjoint}[gradient]
    read = reads(grid.func, t[0], z0)
    # A variable enters as its value, so that its gradient is one more output like any other.
    read_values = [tf.convert_to_tensor(x) for x in read]
    size = len(z0)

    @tf.custom_gradient
    def states_of(*inputs: tf.Tensor) -> Any:
        z0, t = list(inputs[:size]), inputs[size]
        with _nothing_recorded():
            kept = grid.states(z0, t, keep_every_step=mode is _checkpoint)
        outputs = [k[:: grid.steps] for k in kept] if mode is _checkpoint else kept

        def grad(*cotangents: tf.Tensor, variables: Sequence[tf.Variable] | None = None) -> Any:
            backward = _differentiable_once(
                lambda *a: _backward(mode, grid, kept, t, read, a), gradient
            )
            grads = backward(*cotangents, *inputs)
            return (grads, [None] * len(variables)) if variables else grads

        return outputs, grad

    return states_of(*z0, t, *read_values)


def reads(func: Callable[..., Any], t: tf.Tensor, zs: States) -> list[Any]:
    """The float variables and tensors that func reads beside its arguments.

    Tracing func shows them all, also those that no tape would find: variables that are not
    trainable, and tensors that func closes over.
    """
    t_spec = tf.TensorSpec(t.shape, t.dtype)
    z_specs = [tf.TensorSpec(z.shape, z.dtype) for z in zs]
    traced = tf.function(func, autograph=False).get_concrete_function(t_spec, z_specs)
    found = [*traced.graph.variables, *traced.captured_inputs]
    return [x for x in found if x.dtype.is_floating]


def vjp(
    function: Callable[[], States], sources: Sequence[Any], cotangents: States
) -> tuple[States, States]:
    """function() and, from the same evaluation, cotangents^T d function() / d source."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sources)
        value = function()
    grads = tape.gradient(
        value, sources, cotangents, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return value, [tf.convert_to_tensor(g) for g in grads]


def _backward(
    mode: Any, grid: FixedGrid, kept: States, t: tf.Tensor, read: list[Any], cotangents: Any
) -> list[tf.Tensor]:
    """Gradients of z0, t and of what func reads, from the last interval to the first.

    a, the cotangent of the state, jumps by the cotangent of each state that was returned; the
    interval before it turns a(t_i+1) into a(t_i) and adds what t0, dt and the parameters get.
    """
    states, intervals = len(kept), count(t) - 1
    cotangents = list(cotangents[:states])
    dt_rows, t0_rows = Rows(intervals, t[0]), Rows(intervals, t[0])

    def interval(j: tf.Tensor, state: Any) -> Any:
        a, grads, rows = state
        i = intervals - 1 - j
        a, (g_t0, g_dt), grads = mode(grid, kept, i, (t[i], t[i + 1] - t[i]), read, a, grads)
        return _add(a, [c[i] for c in cotangents]), grads, write(rows, i, [g_t0, g_dt])

    start = ([c[-1] for c in cotangents], [tf.zeros_like(x) for x in read], [t0_rows, dt_rows])
    a, grads, rows = repeat(intervals, interval, start)
    g_t0, g_dt = (row.stack() for row in rows)
    # t_i is the start of interval i and, through dt = t_i+1 - t_i, an end of two intervals.
    zero = tf.zeros_like(t[:1])
    g_t = tf.concat([g_t0 - g_dt, zero], axis=0) + tf.concat([zero, g_dt], axis=0)
    return [*a, g_t, *grads]


def _checkpoint(
    grid: FixedGrid, kept: States, i: Any, times: Any, read: list[Any], a: States, grads: States
) -> tuple[States, States, States]:
    """Take every step of interval i again, from the state kept before it, and run it backward."""
    t0, dt = times

    def one_step(j: tf.Tensor, state: Any) -> Any:
        a, g_times, grads = state
        n = grid.steps - 1 - j
        zs = [k[i * grid.steps + n] for k in kept]
        sources = [*zs, t0, dt, *read]
        _, gs = vjp(lambda: grid.advance(t0, dt, n, zs), sources, a)
        return gs[: len(a)], _add(g_times, gs[len(a) : len(a) + 2]), _add(grads, gs[len(a) + 2 :])

    return repeat(grid.steps, one_step, (a, [tf.zeros_like(t0), tf.zeros_like(dt)], grads))


def _adjoint(
    grid: FixedGrid, kept: States, i: Any, times: Any, read: list[Any], a: States, grads: States
) -> tuple[States, States, States]:
    """Solve the state and its adjoint backward over interval i, from s = 1 to s = 0.

        dz/ds = F(s, z),    da/ds = -a^T dF/dz,    dg/ds = -a^T dF/d(t0, dt, theta)

    with F(s, z) = dt f(t0 + s dt, z), from the state that the forward solve returned at s = 1.
    """
    t0, dt = times
    func, size = grid.rescaled(t0, dt), len(a)
    h = tf.constant(-1.0 / grid.steps, a[0].dtype)

    def augmented(s: tf.Tensor, state: list[States]) -> list[States]:
        zs, a, _ = state
        # The minus sign goes into the cotangent: one tape gives F and all products.
        dz, gs = vjp(lambda: func(s, zs), [*zs, t0, dt, *read], [-x for x in a])
        return [dz, gs[:size], gs[size:]]

    start = [[k[i + 1] for k in kept], a, [tf.zeros_like(t0), tf.zeros_like(dt), *grads]]
    if isinstance(grid.step, RungeKutta) or tf.nest.is_nested(grid.pack(a)):
        to_step = from_step = lambda state: state
    else:
        # A user's step function that was written for one tensor gets one tensor.
        to_step, from_step = _as_vector(start)

    def one_step(n: tf.Tensor, state: Any) -> Any:
        s = 1.0 + tf.cast(n, h.dtype) * h
        return grid.step(lambda s, x: to_step(augmented(s, from_step(x))), s, h, state)

    _, a, gs = from_step(repeat(grid.steps, one_step, to_step(start)))
    return a, gs[:2], gs[2:]


def _as_vector(like: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Two functions: from a structure like the one given to one flat vector, and back."""
    leaves = tf.nest.flatten(like)
    sizes = [tf.size(x) for x in leaves]
    dtype = leaves[0].dtype

    def to_vector(structure: Any) -> tf.Tensor:
        parts = [tf.reshape(tf.cast(x, dtype), [-1]) for x in tf.nest.flatten(structure)]
        return tf.concat(parts, axis=0)

    def from_vector(vector: tf.Tensor) -> Any:
        parts = zip(tf.split(vector, sizes, num=len(leaves)), leaves, strict=True)
        shaped = [tf.cast(tf.reshape(part, tf.shape(x)), x.dtype) for part, x in parts]
        for part, x in zip(shaped, leaves, strict=True):
            part.set_shape(x.shape)
        return tf.nest.pack_sequence_as(like, shaped)

    return to_vector, from_vector


def _add(xs: States, ys: States) -> States:
    return [x + y for x, y in zip(xs, ys, strict=True)]


def _nothing_recorded() -> contextlib.AbstractContextManager[None]:
    """Pause every tape in eager mode, where an outer tape would keep all of the solver's work."""
    return tf.init_scope() if tf.executing_eagerly() else contextlib.nullcontext()


def _differentiable_once(backward: Callable[..., Any], gradient: str) -> Callable[..., Any]:
    """backward, with an error in place of a second derivative that would be wrong."""

    @tf.custom_gradient
    def once(*inputs: tf.Tensor) -> Any:
        def grad(*_: Any, variables: Any = None) -> Any:
            raise NotImplementedError(
                f'gradient="{gradient}" can be differentiated once: for second derivatives use '
                'gradient="backprop"'
            )

        return backward(*inputs), grad

    return once
