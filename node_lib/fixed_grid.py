"""The fixed grid: every interval between two times cut into equal steps (Chapters 3 and 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from .solvers import Step, Structure, align

# The leaves of a state: what the solvers and the gradients work on.
States = list[tf.Tensor]
FlatFunc = Callable[[tf.Tensor, States], States]


def rescaled(func: FlatFunc, t0: tf.Tensor, dt: tf.Tensor) -> FlatFunc:
    """F(s, z) = dt f(t0 + s dt, z), so that dz/ds = F(s, z) for s in [0, 1]      (4.2) (5.13)

    One scalar clock s for all samples, in both directions of time, whatever t0 and dt are.
    """

    def rescaled_func(s: tf.Tensor, zs: States) -> States:
        return [align(dt, k) * k for k in func(t0 + s * dt, zs)]  # (5.13)

    return rescaled_func


@dataclass(frozen=True)
class FixedGrid:
    """dz/dt = func(t, z) with ``steps`` equal steps of ``step`` in each interval.

    func takes and returns the leaves of the state as a list; ``pack`` gives them back the
    structure in which the step function, which may be the user's own, is to see them.
    """

    func: FlatFunc
    step: Step
    steps: int
    pack: Callable[[States], Structure]

    def advance(
        self, t0: tf.Tensor, dt: tf.Tensor, n: tf.Tensor, zs: States, direction: int = 1
    ) -> States:
        """The states one step after time n of the interval [t0, t0 + dt], or one before it."""
        size = tf.constant(1.0 / self.steps, zs[0].dtype)
        func = rescaled(self.func, t0, dt)

        def packed(s: tf.Tensor, z: Structure) -> Structure:
            return self.pack(func(s, tf.nest.flatten(z)))

        s, h = tf.cast(n, size.dtype) * size, direction * size
        leaves: States = tf.nest.flatten(self.step(packed, s, h, self.pack(zs)))
        return leaves

    def states(self, z0: States, t: tf.Tensor, keep_every_step: bool = False) -> States:
        """The states at the times t, [T, ...], or after every step, [(T - 1) steps + 1, ...]."""
        intervals = count(t) - 1
        rows = intervals * self.steps if keep_every_step else intervals
        kept = [Rows(rows + 1, z, keep_every_step).write(0, z) for z in z0]

        def interval(i: tf.Tensor, state: Any) -> Any:
            t0, dt = t[i], t[i + 1] - t[i]

            def one_step(n: tf.Tensor, state: Any) -> Any:
                zs, kept = state
                zs = self.advance(t0, dt, n, zs)
                if keep_every_step:
                    kept = write(kept, i * self.steps + n + 1, zs)
                return zs, kept

            zs, kept = repeat(self.steps, one_step, state)
            return zs, kept if keep_every_step else write(kept, i + 1, zs)

        _, kept = repeat(intervals, interval, (z0, kept))
        return [row.stack() for row in kept]


def count(t: tf.Tensor) -> Any:
    """The length of the first axis: a number where it is known, else a tensor."""
    return t.shape[0] if t.shape[0] is not None else tf.shape(t)[0]


def Rows(n: Any, like: tf.Tensor, kept: bool = False) -> tf.TensorArray:
    """Room for n tensors shaped like one that is given.

    kept: for the way back. The static size of these rows is hidden: where TensorFlow's graph
    optimiser expects much memory to be in use, it puts temporary variables into loops, and the
    second call of the graph ends in AlreadyExistsError (tensorflow/tensorflow#23780).
    """
    if kept:
        n = tf.reduce_sum(tf.ones([n], tf.int32))
    return tf.TensorArray(like.dtype, size=n, element_shape=like.shape, clear_after_read=False)


def write(arrays: list[tf.TensorArray], i: tf.Tensor, values: States) -> list[tf.TensorArray]:
    """One value into each array, at row i."""
    return [array.write(i, value) for array, value in zip(arrays, values, strict=True)]


def repeat(
    n: Any, body: Callable[[tf.Tensor, Any], Any], state: Any, at_most: int | None = None
) -> Any:
    """body(i, state) for i = 0 to n - 1, as one loop of the graph.

    tf.while_loop is traced once, however many the steps: as fast as a Python loop that is
    unrolled into the graph, and traced ten times sooner. XLA differentiates it only where it
    knows the number of iterations.
    """
    _, state = tf.while_loop(
        lambda i, _: i < n,
        lambda i, state: (i + 1, body(i, state)),
        (tf.constant(0), state),
        maximum_iterations=n if at_most is None else at_most,
    )
    return state
