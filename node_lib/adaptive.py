"""Adaptive steps: an embedded pair, an error norm and a controller (Chapter 9).

The whole span is rescaled to s in [0, 1], as on the fixed grid. The states at requested times come
from the method's own dense output, so that they do not shorten any step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import tensorflow as tf

from .fixed_grid import FlatFunc, Rows, States, count, write
from .solvers import RungeKutta, advance, align, further_stages

Quadrature = Callable[[States, tf.Tensor, tf.Tensor, States, list[States]], States]

SAFETY, SMALLEST_FACTOR, LARGEST_FACTOR = 0.9, 0.2, 10.0
RUNNING, UNDERFLOW, NOT_FINITE = 0, 1, 2


class State(NamedTuple):
    """Where an adaptive solve stands."""

    attempts: tf.Tensor  # this and the next five: one number, or one for each sample
    accepted: tf.Tensor
    status: tf.Tensor
    s: tf.Tensor  # the time reached
    h: tf.Tensor  # the next step to try
    ratio: tf.Tensor  # the error ratio of the last accepted step
    z: States
    f: States  # func(s, z)
    row: tf.Tensor  # the first requested time that is not passed by all samples
    rows: list[tf.TensorArray]  # the states at the requested times
    steps: list[tf.TensorArray]  # s, h and z at the start of each step, if recorded
    total: States  # quadratures that belong to no sample


def batch_clock(z0: States) -> tf.Tensor:
    """Zero for each sample: [batch, 1], or [batch] beside states [batch]."""
    axes = min(2, min(len(z.shape) for z in z0))
    return tf.zeros([tf.shape(z0[0])[0], *[1] * (axes - 1)], z0[0].dtype)


def rms(xs: States, clock: tf.Tensor) -> tf.Tensor:
    """The root mean square of all entries of all tensors, or one for each sample of the clock."""
    if len(clock.shape) == 0:
        squares = tf.add_n([tf.reduce_sum(tf.square(x)) for x in xs])
        size = tf.add_n([tf.cast(tf.size(x), clock.dtype) for x in xs])
        return tf.sqrt(squares / tf.maximum(size, tf.ones_like(size)))
    # The number of entries is counted, not left to -1: a batch may be empty.
    rows = [tf.reshape(x, [tf.shape(x)[0], tf.reduce_prod(tf.shape(x)[1:])]) for x in xs]
    rows = tf.concat(rows, axis=1)
    squares = tf.reduce_sum(tf.square(rows), axis=1)
    size = tf.maximum(tf.cast(tf.shape(rows)[1], clock.dtype), 1)
    return tf.reshape(tf.sqrt(squares / size), tf.shape(clock))


def first_step(
    func: FlatFunc, s: tf.Tensor, z0: States, f0: States, size: Any, order: int
) -> tf.Tensor:
    """A first step size in (0, 1], from the sizes of z, f and the change of f over a trial step.

    size(xs) is the root mean square of xs in units of the tolerance.

    Source: Hairer, Norsett & Wanner (1993), section II.4, "Starting step size", doi
    10.1007/978-3-540-78862-1.
    """
    one = tf.ones_like(s)
    d0, d1 = size(z0), size(f0)
    trial = tf.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6 * one, 0.01 * d0 / d1)
    trial = tf.minimum(trial, one)
    f1 = func(trial, [z + align(trial, z) * f for z, f in zip(z0, f0, strict=True)])
    d2 = size([y - x for x, y in zip(f0, f1, strict=True)]) / trial
    largest = tf.maximum(d1, d2)
    step = tf.where(
        largest <= 1e-15,
        tf.maximum(1e-6 * one, 1e-3 * trial),
        (0.01 / tf.maximum(largest, 1e-15 * one)) ** (1 / (order + 1)),
    )
    h = tf.minimum(tf.minimum(100 * trial, step), one)
    return tf.where(tf.math.is_finite(h) & (h > 0), h, 1e-6 * one)


def next_factor(ratio: tf.Tensor, before: tf.Tensor, order: int) -> tf.Tensor:
    """The factor for the step size: a proportional-integral controller.

        h_next / h = 0.9 ratio^(-0.7 / (p + 1)) ratio_before^(0.4 / (p + 1)),

    with p the order of the error estimate, between 0.2 and 10. A rejected step shrinks by
    0.9 ratio^(-1 / (p + 1)), and by 0.2 where the ratio is not finite.

    Source: Gustafsson, Control theoretic techniques for stepsize selection in explicit
    Runge-Kutta methods (1991), doi 10.1145/210232.210242; Hairer & Wanner (1996), section IV.2,
    doi 10.1007/978-3-642-05221-7.
    """
    one = tf.ones_like(ratio)
    safe = tf.maximum(ratio, 1e-10 * one)
    accepted = SAFETY * safe ** (-0.7 / (order + 1)) * before ** (0.4 / (order + 1))
    rejected = tf.minimum(SAFETY * safe ** (-1 / (order + 1)), one)
    factor = tf.where(ratio <= 1, accepted, rejected)
    factor = tf.clip_by_value(factor, SMALLEST_FACTOR * one, LARGEST_FACTOR * one)
    return tf.where(tf.math.is_finite(ratio), factor, SMALLEST_FACTOR * one)


@dataclass(frozen=True)
class Adaptive:
    """Steps of an embedded pair, each as long as the tolerance allows.

    dz/ds = func(s, z) over s in [0, 1]. One step size serves all samples, or with ``per_sample``
    each sample along axis 0 has its own clock s, step size, error norm and end, as in torchode
    (Lienen & Gunnemann 2022, arXiv 2210.12375).
    """

    method: RungeKutta
    rtol: float
    atol: float
    max_steps: int
    per_sample: bool = False

    def clock(self, z0: States) -> tf.Tensor:
        """Zero, once or for each sample."""
        return batch_clock(z0) if self.per_sample else tf.zeros([], z0[0].dtype)

    def stages(self, func: FlatFunc, s: Any, h: Any, z: States, k1: States) -> list[States]:
        """The slopes of one step, of which the first is known."""
        return further_stages(func, s, h, z, [k1], self.method.a[1:], self.method.c[1:])

    def dense_stages(
        self, func: FlatFunc, s: Any, h: Any, z: States, ks: list[States]
    ) -> list[States]:
        """The slopes of a step and, after them, those that only the dense output needs."""
        return further_stages(func, s, h, z, ks, self.method.dense_a, self.method.dense_c)

    def size(self, xs: States, z: States, z1: States, clock: tf.Tensor) -> tf.Tensor:
        """sqrt(mean((x / (atol + rtol max(|z|, |z1|)))^2)), in units of the tolerance.

        Source: Hairer, Norsett & Wanner (1993), section II.4, eq. 4.11.
        """
        return rms(
            [
                x / (self.atol + self.rtol * tf.maximum(tf.abs(a), tf.abs(b)))
                for x, a, b in zip(xs, z, z1, strict=True)
            ],
            clock,
        )

    def error(self, h: Any, z: States, z1: States, ks: list[States]) -> tf.Tensor:
        """The error of a step in units of the tolerance: it is accepted if this is at most 1."""

        def size(weights: Any) -> tf.Tensor:
            return self.size(advance([tf.zeros_like(x) for x in z], h, weights, ks), z, z1, h)

        high = size(self.method.b_error)
        if self.method.b_error_low is None:
            return high
        # DOP853 sharpens its estimate of order 5 by one of order 3 (HNW 1993, eq. II.10.17).
        low = size(self.method.b_error_low)
        tiny = tf.cast(1e-30, high.dtype)
        return tf.square(high) / tf.sqrt(tf.square(high) + 0.01 * tf.square(low) + tiny)

    def solve(
        self,
        func: FlatFunc,
        z0: States,
        positions: tf.Tensor,
        *,
        record: bool = False,
        measured: int | None = None,
        quadrature: Quadrature | None = None,
        total: States | None = None,
    ) -> tuple[State, list[tf.Tensor]]:
        """How the solve ended, and the states at the positions, each [T, ...].

        positions: the requested times in rescaled time, [T] or [T, batch, 1], from 0 to 1.
        record: keep s, h and z at the start of each accepted step; with ``per_sample`` of each
            attempt, h being 0 for the samples that did not accept it.
        measured: how many leaves, counted from the first, take part in the error norm. Nothing
            feeds back from a quadrature, so its error need not limit the step (Kidger, Chen &
            Lyons 2021, arXiv 2009.09457).
        quadrature: quadrature(total, s, h, z, ks) adds what an accepted step contributes to
            totals that belong to no sample; ``total`` is where they start.
        """
        method, measured = self.method, measured or len(z0)
        clock = self.clock(z0)
        one = tf.ones_like(clock)
        output = Output(self, func, positions)
        f0 = func(clock, z0)

        def size(xs: States) -> tf.Tensor:
            return self.size(xs[:measured], z0[:measured], z0[:measured], clock)

        order = method.error_order
        assert order is not None  # checks.settings saw to it
        h0 = first_step(func, clock, z0, f0, size, order)

        def attempt(state: State) -> tuple[State]:
            active = (state.s < 1) & (state.status == RUNNING)
            last = state.h >= 1 - state.s
            h = tf.where(active, tf.where(last, 1 - state.s, state.h), tf.zeros_like(one))
            end = tf.where(last, one, state.s + h)
            ks = self.stages(func, state.s, h, state.z, state.f)
            z1 = advance(state.z, h, method.b, ks)
            zs, z1s = state.z[:measured], z1[:measured]
            ratio = tf.stop_gradient(self.error(h, zs, z1s, [k[:measured] for k in ks]))
            accept = active & (ratio <= 1)
            taken = tf.where(accept, h, tf.zeros_like(h))
            f1 = ks[-1] if method.fsal else func(end, z1)
            row, rows = output.fill(state, accept, h, end, ks, z1, f1)
            steps = state.steps
            if record:
                # Some sample is active in every loop: the most attempts count the loops.
                slot = tf.reduce_max(state.attempts) if self.per_sample else state.accepted
                steps = write(steps, slot, [state.s, taken, *state.z])
            total = state.total
            if quadrature is not None:
                total = quadrature(total, state.s, taken, state.z, ks)
            h_next = h * next_factor(ratio, state.ratio, order)
            s_next = tf.where(accept, end, state.s)
            # A step is too small if it no longer changes s. At s = 0 every step does: where func is
            # not finite there, 1e-30 of the span is the end.
            finite = tf.math.is_finite(ratio)
            hopeless = ~finite & (h_next <= 1e-30 * one)
            stuck = active & (s_next < 1) & ((s_next + h_next <= s_next) | hopeless)
            reason = tf.where(finite, UNDERFLOW, NOT_FINITE)
            return (
                State(
                    attempts=state.attempts + tf.cast(active, tf.int32),
                    accepted=state.accepted + tf.cast(accept, tf.int32),
                    status=tf.where(stuck, reason, state.status),
                    s=s_next,
                    h=tf.where(active, h_next, state.h),
                    ratio=tf.where(accept, tf.maximum(ratio, 1e-4 * one), state.ratio),
                    z=choose(accept, z1, state.z),
                    f=choose(accept, f1, state.f),
                    row=row,
                    rows=rows,
                    steps=steps,
                    total=total,
                ),
            )

        number = tf.cast(clock, tf.int32)
        start = State(
            attempts=number,
            accepted=number,
            status=number + RUNNING,
            s=clock,
            h=tf.stop_gradient(h0),
            ratio=one,
            z=list(z0),
            f=f0,
            row=tf.constant(1),
            rows=output.start(z0),
            steps=[Rows(self.max_steps, x, kept=True) for x in [one, one, *z0]] if record else [],
            total=total or [],
        )
        (state,) = tf.while_loop(
            lambda state: tf.reduce_any((state.s < 1) & (state.status == RUNNING)),
            attempt,
            (start,),
            maximum_iterations=self.max_steps,
        )
        return state, output.collect(state)

    def evaluations(self, attempts: tf.Tensor) -> tf.Tensor:
        """The evaluations of func in so many attempts, those for the first step included."""
        return 2 + attempts * (len(self.method.b) - (1 if self.method.fsal else 0))


def choose(condition: tf.Tensor, xs: States, ys: States) -> States:
    """The leaves of xs where the condition holds, one truth or one a sample, else those of ys."""
    return [tf.where(align(condition, x), x, y) for x, y in zip(xs, ys, strict=True)]


def polynomial(theta: tf.Tensor, coefficients: Sequence[Fraction]) -> tf.Tensor:
    """c_0 + c_1 theta + c_2 theta^2 + ... by Horner's rule."""
    total = tf.zeros_like(theta)
    for c in reversed(coefficients):
        total = total * theta + float(c)
    return total


@dataclass(frozen=True)
class Output:
    """The states at the requested times, by dense output: z + h sum_i b_i(theta) k_i."""

    solver: Adaptive
    func: FlatFunc
    positions: tf.Tensor

    @property
    def own(self) -> bool:
        """Whether each sample has its own positions."""
        return len(self.positions.shape) > 1

    @property
    def reach(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The first and the last position of each row over the samples, [T] each."""
        if not self.own:
            return self.positions, self.positions
        axes = list(range(1, len(self.positions.shape)))
        return tf.reduce_min(self.positions, axes), tf.reduce_max(self.positions, axes)

    def inside(self, j: tf.Tensor, s: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        """Whether position j lies in the step from s to end; the first step has its start too."""
        at = self.positions[j]
        return ((at > s) | (s <= 0)) & (at <= end)

    def start(self, z0: States) -> list[tf.TensorArray]:
        """The arrays of rows, of which the first is z0."""
        rows = count(self.positions)
        arrays = [Rows(rows, z) for z in z0]
        if not self.own:
            return write(arrays, 0, z0)
        # A sample's row is overwritten when its own time has come: every row needs a first value.
        return [
            a.unstack(tf.repeat(z[None], rows, axis=0)) for a, z in zip(arrays, z0, strict=True)
        ]

    def fill(
        self, state: State, accept: Any, h: Any, end: Any, ks: Any, z1: States, f1: States
    ) -> tuple[tf.Tensor, list[tf.TensorArray]]:
        """Write what lies in an accepted step. The last row is the end of the solve itself."""
        if self.positions.shape[0] == 2:
            return state.row, state.rows
        first, _ = self.reach
        final = count(self.positions) - 1
        reached = tf.reduce_max(tf.where(accept, end, tf.zeros_like(end)))

        def due(j: tf.Tensor, rows: Any = None) -> tf.Tensor:
            return (j < final) & (first[tf.minimum(j, final)] <= reached)

        def one_row(j: tf.Tensor, rows: list[tf.TensorArray]) -> Any:
            theta = (self.positions[j] - state.s) / tf.where(h == 0, tf.ones_like(h), h)
            values = self.at(theta, h, state.z, slopes)
            if self.own:
                mine = accept & self.inside(j, state.s, end)
                old = [row.read(j) for row in rows]
                values = [tf.where(align(mine, z), z, o) for z, o in zip(values, old, strict=True)]
            return j + 1, write(rows, j, values)

        slopes = self.slopes(state.s, h, state.z, ks, f1, due(state.row))
        _, rows = tf.while_loop(due, one_row, (state.row, state.rows), maximum_iterations=final)
        passed = self.positions <= tf.where(accept, end, state.s)
        if self.own:
            passed = tf.reduce_all(passed, axis=list(range(1, len(self.positions.shape))))
        return tf.maximum(state.row, tf.reduce_sum(tf.cast(passed, tf.int32))), rows

    def slopes(self, s: Any, h: Any, z: States, ks: list[States], f1: States, needed: Any) -> Any:
        """The slopes that the dense output is made of, further stages only where needed."""
        method = self.solver.method
        if method.dense is None:
            return [*ks, f1]
        if not method.dense_a:
            return ks
        zeros = [[tf.zeros_like(x) for x in z] for _ in method.dense_a]
        return tf.cond(
            needed,
            lambda: self.solver.dense_stages(self.func, s, h, z, ks),
            lambda: [*ks, *zeros],
        )

    def at(self, theta: tf.Tensor, h: Any, z: States, slopes: list[States]) -> States:
        """z(s + theta h) for theta, one number or one a sample."""
        weights = [theta * polynomial(theta, row) for row in dense_rows(self.solver.method)]
        return [
            x
            + align(h, x)
            * tf.add_n([align(w, x) * k[i] for w, k in zip(weights, slopes, strict=True)])
            for i, x in enumerate(z)
        ]

    def collect(self, state: State) -> list[tf.Tensor]:
        """The rows as tensors, NaN where the solve did not arrive."""
        rows = [row.stack() for row in write(state.rows, count(self.positions) - 1, state.z)]
        arrived = self.positions <= state.s
        return [
            tf.where(align(arrived, row), row, tf.constant(float("nan"), row.dtype)) for row in rows
        ]


def dense_rows(method: RungeKutta) -> list[Sequence[Fraction]]:
    """The coefficients of each b_i(theta), lowest power first.

    Without a dense output of its own a method gets the cubic through both ends and their slopes
    (Hairer, Norsett & Wanner 1993, eq. II.6.7), the slope at the end being one more stage.
    """
    if method.dense is not None:
        return list(method.dense)
    zero, one = Fraction(0), Fraction(1)
    rows = [[zero, 3 * b, -2 * b] for b in method.b]
    rows[0] = [one, rows[0][1] - 2, rows[0][2] + 1]
    return [*rows, [zero, -one, one]]


def slope_rows(method: RungeKutta) -> list[Sequence[Fraction]]:
    """The coefficients of each derivative b_i'(theta), lowest power (a constant) first."""
    return [[(n + 1) * c for n, c in enumerate(row)] for row in dense_rows(method)]
