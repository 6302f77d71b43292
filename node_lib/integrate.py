"""odeint: states of an ODE at requested times, with gradients (Chapters 2 to 4)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from . import checks, gradients
from .fixed_grid import FixedGrid
from .solvers import Func, Step


def odeint(
    func: Func,
    z0: Any,
    t: Any,
    *,
    solver: str | Step,
    steps: int | None,
    gradient: str = "checkpoint",
) -> Any:
    """Solve dz/dt = f(t, z), z(t[0]) = z0, and return z at every time of t.

    Each interval [t_i, t_i+1] is rescaled to s in [0, 1] (4.2) and cut into equal steps:

        dz/ds = dt f(t_i + s dt, z),    dt = t_i+1 - t_i,    h = 1 / steps

    so time may run backward, and each sample may have its own times.

    Args:
        func: ``func(t, z)`` returns dz/dt with z's structure, shapes and dtype. t is a scalar, or
            ``[batch, 1]`` where each sample has its own times. It may read variables and other
            tensors: each gets its gradient.
        z0: the state at t[0]: a floating-point tensor or any ``tf.nest`` structure of such
            tensors, all of one dtype.
        t: the times, ``[T]`` with T >= 2, increasing or decreasing; or one row of times for each
            sample, ``[T, batch, 1]``. In the unit of time that func assumes. Differentiable.
        solver: the name of a method in ``SOLVERS``, a ``RungeKutta``, or a function
            ``step(func, t, h, z)`` that returns z at t + h. It is called in rescaled time.
        steps: the number of equal steps in each interval.
        gradient: how to differentiate. ``"backprop"``: the tape goes through every operation of
            the solver and keeps what it needs. ``"checkpoint"``: the same gradient, keeping the
            state at each step and taking each step again going back. ``"adjoint"``: the
            continuous adjoint, solved backward in time; memory does not depend on ``steps``, and
            the gradient has the solver's error. Second derivatives need ``"backprop"``.

    Returns:
        z at every time of t: z0's structure, each tensor with a leading axis T. The first entry
        is z0.

    Raises:
        ValueError, TypeError: an argument is wrong; the message names it, what it was and what
            it must be. Values that are known only when a graph runs raise
            ``tf.errors.InvalidArgumentError`` there; code compiled by XLA cannot raise.

    Source: Chen et al., Neural Ordinary Differential Equations (2018), arXiv 1806.07366.
    Chapter 3 builds the steps, Chapter 4 the layer around this function.
    """
    step, steps = checks.settings(solver, steps, gradient)
    z0 = checks.state(z0)
    t = checks.times(t, z0)

    def pack(leaves: list[tf.Tensor]) -> Any:
        return tf.nest.pack_sequence_as(z0, leaves)

    def flat_func(t: tf.Tensor, zs: list[tf.Tensor]) -> list[tf.Tensor]:
        z = pack(zs)
        return checks.slope(func(t, z), z)

    grid = FixedGrid(flat_func, step, steps, pack)
    return pack(gradients.solve(grid, tf.nest.flatten(z0), t, gradient))
