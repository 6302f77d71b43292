"""odeint: states of an ODE at requested times, with gradients (Chapters 2 to 4, 7 and 9)."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import tensorflow as tf

from . import checks, gradients
from .adaptive import Adaptive, batch_clock
from .adaptive_gradients import solve_adaptive
from .fixed_grid import FixedGrid, States, count
from .gradients import Gradient
from .solvers import Func, RungeKutta, Step, Structure


class Stats(NamedTuple):
    """What a solve did, in int32: one number each, or with ``per_sample`` one for each sample.

    Args:
        evaluations: how often func was evaluated on the way forward, the gradient not counted.
        accepted: steps that the solution took.
        rejected: steps that were tried and whose error was too large; 0 on the fixed grid.

    Chapter 9 reads them.
    """

    evaluations: tf.Tensor
    accepted: tf.Tensor
    rejected: tf.Tensor


def odeint(
    func: Func,
    z0: Structure,
    t: Any,
    *,
    solver: str | Step = "dopri5",
    steps: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    gradient: Gradient = "checkpoint",
    per_sample: bool = False,
    max_steps: int = 1000,
    on_failure: Literal["raise", "nan"] = "raise",
    return_stats: bool = False,
) -> Structure:
    """Solve dz/dt = f(t, z), z(t[0]) = z0, and return z at every time of t.

    On the fixed grid each interval [t_i, t_i+1] is rescaled to s in [0, 1] (4.2) and cut into
    equal steps:

        dz/ds = dt f(t_i + s dt, z),    dt = t_i+1 - t_i,    h = 1 / steps

    so time may run backward, and each sample may have its own times. With ``steps=None`` the
    whole span is rescaled, and the solver chooses each step so that

        sqrt(mean((error / (atol + rtol max(|z_n|, |z_n+1|)))^2)) <= 1

    over all entries of the state, the error being the difference from the embedded method. The
    states at times inside a step come from the method's dense output.

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
        steps: the number of equal steps in each interval; None for adaptive steps, which need a
            solver with an error estimate (bosh3, dopri5, tsit5, dopri8).
        rtol, atol: the relative and the absolute tolerance of an adaptive step's error; atol is
            in the unit of z. A tensor is welcome, also one whose value only a graph learns.
        gradient: how to differentiate.

            - ``"backprop"``: the tape goes through every operation of the solver and keeps what
              it needs. Second derivatives need this one.
            - ``"checkpoint"``: the same gradient, keeping the state at each step and taking each
              step again going back. func must answer the same when it is asked again: this and all
              further modes warn of a func that draws random numbers or changes variables.
            - ``"adjoint"``: the continuous adjoint, solved backward in time. Memory does not
              depend on the number of steps, and the gradient has the solver's error.
            - ``"reversible"``: a scheme around the solver's step that can be undone, with its
              exact gradient, on the fixed grid. Memory does not depend on the number of steps;
              the states differ from those of the other modes by the solver's error, which grows
              like e^(rate T) where states decay at that rate: not for stiff problems (Chapter 8).

            The sizes of adaptive steps count as constants.
        per_sample: axis 0 holds independent problems, and each takes its own adaptive steps, with
            an error norm of its own: no sample's result depends on which others share its batch.
            func sees one time a sample, ``[batch, 1]``.
        max_steps: how many adaptive steps may be tried. "checkpoint" reserves memory for so many
            states.
        on_failure: what happens if an adaptive solve does not arrive, or a state on the fixed
            grid is NaN. ``"raise"``: RuntimeError, or ``tf.errors.InvalidArgumentError`` inside a
            ``tf.function``; so does a gradient by "adjoint" whose adaptive solve back does not
            arrive. ``"nan"``: NaN in the states that were not reached. Code compiled by XLA cannot
            raise: there it is NaN. What overflows on the fixed grid is infinite, as computed.
        return_stats: return ``(z, Stats)``.

    Returns:
        z at every time of t, in z0's structure, each tensor with a leading axis T. The first
        entry is z0.

    Raises:
        ValueError, TypeError: an argument is wrong; the message names it, what it was and what
            it must be. Values that are known only when a graph runs raise
            ``tf.errors.InvalidArgumentError`` there; code compiled by XLA cannot raise.
        RuntimeError: the adaptive solve failed; the message names the time and the remedy.
        NotImplementedError: a second derivative through another mode than "backprop".

    Source: Chen et al., Neural Ordinary Differential Equations (2018), arXiv 1806.07366; Hairer,
    Norsett & Wanner, Solving Ordinary Differential Equations I (1993), sections II.4 to II.6,
    doi 10.1007/978-3-540-78862-1; the reversible scheme: McCallum & Foster (2024), arXiv
    2410.11648. Chapter 3 builds the steps, Chapter 4 the layer around this function, Chapters 5
    to 8 the gradients, Chapter 9 the adaptive steps.
    """
    step, steps = checks.settings(solver, steps, gradient)
    checks.function(func)
    checks.flag(per_sample, "per_sample")
    z0 = checks.state(z0)
    dtype = tf.nest.flatten(z0)[0].dtype
    rtol, atol = checks.tolerances(rtol, atol, max_steps, on_failure, dtype)
    t = checks.times(t, z0)
    if per_sample:
        checks.batch(z0)
        t = _own_times(t, z0)

    def pack(leaves: States) -> Structure:
        return tf.nest.pack_sequence_as(z0, leaves)

    def flat_func(t: tf.Tensor, zs: States) -> States:
        z = pack(zs)
        return checks.slope(func(t, z), z)

    leaves = tf.nest.flatten(z0)
    if steps is None:
        assert isinstance(step, RungeKutta)  # checks.settings saw to it
        adaptive = Adaptive(step, rtol, atol, max_steps, per_sample)
        may_raise = on_failure == "raise"
        states, report = solve_adaptive(adaptive, flat_func, leaves, t, gradient, may_raise)
        if may_raise:
            checks.arrived(report, t, max_steps)
        counts = tf.cast(report[:2], tf.int32)
        attempts, accepted = tf.unstack(tf.reshape(counts, [2, -1]) if per_sample else counts)
        stats = Stats(adaptive.evaluations(attempts), accepted, attempts - accepted)
    else:
        checked = step if isinstance(step, RungeKutta) else checks.own_step(step)
        grid = FixedGrid(flat_func, checked, steps, pack)
        states = gradients.solve(grid, leaves, t, gradient)
        if on_failure == "raise":
            checks.no_nan(states, t)
        taken = tf.convert_to_tensor((count(t) - 1) * steps)
        each = _evaluations(step, z0) if return_stats else 0
        stats = Stats(taken * each, taken, tf.zeros_like(taken))
    z = pack(states)
    return (z, stats) if return_stats else z


def _own_times(t: tf.Tensor, z0: Structure) -> tf.Tensor:
    """Shared times as one row for each sample, [T, batch, 1] ([T, batch] for states [batch])."""
    if len(t.shape) > 1:
        return t
    clock = batch_clock(tf.nest.flatten(z0))
    return tf.reshape(t, [-1] + [1] * len(clock.shape)) + clock


def _evaluations(step: Step, z0: Structure) -> int:
    """How often one step evaluates func."""
    times: States = []

    def func(t: tf.Tensor, z: Structure) -> Structure:
        times.append(t)
        return z

    start = tf.zeros([], tf.nest.flatten(z0)[0].dtype)
    step(func, start, start + 1, z0)
    return len(times)
