"""Explicit Runge-Kutta methods: the tableau of each, and one step of it (Chapter 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import tensorflow as tf

Func = Callable[[Any, Any], Any]
Step = Callable[[Func, Any, Any, Any], Any]


def align(x: Any, z: tf.Tensor) -> Any:
    """Give x, one number or one a sample, as many axes as z, so that x * z pairs the samples.

    Shapes are aligned at the first axis: [batch, 1] against [batch, a, b] becomes
    [batch, 1, 1], and against [batch] it becomes [batch]. A scalar is returned as it is.
    """
    rank = len(getattr(x, "shape", ()))
    if rank == 0 or rank == len(z.shape):
        return x
    if rank < len(z.shape):
        return tf.reshape(x, tf.concat([tf.shape(x), [1] * (len(z.shape) - rank)], axis=0))
    return tf.reshape(x, tf.shape(x)[: len(z.shape)])


def _advance(z: Any, h: Any, weights: Sequence[Fraction], slopes: Sequence[Any]) -> Any:
    """z + h sum_j w_j k_j, on each tensor of the structure; a weight of zero costs nothing."""
    used = [(float(w), k) for w, k in zip(weights, slopes, strict=True) if w]
    if not used:
        return z

    def advance(z: tf.Tensor, *ks: tf.Tensor) -> tf.Tensor:
        mean = sum(w * k for (w, _), k in zip(used[1:], ks[1:], strict=True)) + used[0][0] * ks[0]
        return z + align(h, z) * mean

    return tf.nest.map_structure(advance, z, *[k for _, k in used])


@dataclass(frozen=True)
class RungeKutta:
    """An explicit Runge-Kutta method, and one step of it.

    k_i = f(t + c_i h, z + h sum_j a_ij k_j),    z_next = z + h sum_i b_i k_i        (3.8)

    Calling it takes one step, ``z_next = rk4(func, t, h, z)``. ``func(t, z)`` returns dz/dt
    with the structure of z, which is a tensor or any ``tf.nest`` structure of tensors. ``t``
    and ``h`` are in the same unit of time, each a scalar or one a sample, ``[batch, 1]``.

    Args:
        name: the name under which ``odeint`` knows the method.
        order: the power p in |error after one unit of time| = O(h^p).
        a: the stage coefficients, row i holding a_i1 to a_i,i-1. The first row is empty.
        b: the weights of the stages in the step.
        c: the nodes: the time of each stage as a part of the step.
        b_error: b minus the weights of the embedded method, or None for a method without an
            error estimate.

    Raises:
        ValueError: the tableau's rows do not fit together.

    Source: Butcher, Numerical Methods for Ordinary Differential Equations (2016), section 23.
    Chapter 3 derives the methods and measures their orders.
    """

    name: str
    order: int
    a: tuple[tuple[Fraction, ...], ...]
    b: tuple[Fraction, ...]
    c: tuple[Fraction, ...]
    b_error: tuple[Fraction, ...] | None = None

    def __post_init__(self) -> None:
        stages = len(self.b)
        rows = [len(row) for row in self.a]
        if rows != list(range(stages)) or len(self.c) != stages:
            raise ValueError(
                f"the tableau of {self.name!r} has {stages} weights b, {len(self.c)} nodes c and "
                f"rows a of lengths {rows}: an explicit method of {stages} stages needs as many "
                f"nodes and rows of lengths {list(range(stages))}"
            )
        if self.b_error is not None and len(self.b_error) != stages:
            raise ValueError(
                f"the tableau of {self.name!r} has {len(self.b_error)} error weights for "
                f"{stages} stages"
            )

    def stages(self, func: Func, t: Any, h: Any, z: Any) -> list[Any]:
        """The slopes k_1 to k_s of one step, each with the structure of z."""
        z = tf.nest.map_structure(tf.convert_to_tensor, z)
        # A bare number would become float32 inside func, whatever the state is.
        dtype = tf.nest.flatten(z)[0].dtype
        t, h = tf.convert_to_tensor(t, dtype), tf.convert_to_tensor(h, dtype)
        ks: list[Any] = []
        for row, node in zip(self.a, self.c, strict=True):
            ks.append(func(t + float(node) * h, _advance(z, h, row, ks)))
        return ks

    def __call__(self, func: Func, t: Any, h: Any, z: Any) -> Any:
        """z at t + h, by one step from z at t."""
        return _advance(z, h, self.b, self.stages(func, t, h, z))


def _tableau(name: str, order: int, a: str, b: str, c: str) -> RungeKutta:
    """A method from its tableau as it is printed in books: rows split by '|'."""

    def row(text: str) -> tuple[Fraction, ...]:
        return tuple(Fraction(number) for number in text.split())

    return RungeKutta(name, order, tuple(row(line) for line in a.split("|")), row(b), row(c))


# Euler, Institutionum calculi integralis I (1768); the update of a residual block (Chapter 1).
euler = _tableau("euler", order=1, a="", b="1", c="0")

# Runge, Ueber die numerische Auflösung von Differentialgleichungen, Math. Ann. 46 (1895).
midpoint = _tableau("midpoint", order=2, a="| 1/2", b="0 1", c="0 1/2")

# Heun, Neue Methoden zur approximativen Integration, Z. Math. Phys. 45 (1900): the trapezium
# rule with an Euler step for its unknown end.
heun = _tableau("heun", order=2, a="| 1", b="1/2 1/2", c="0 1")

# Kutta, Beitrag zur näherungsweisen Integration, Z. Math. Phys. 46 (1901): the classical method.
rk4 = _tableau("rk4", order=4, a="| 1/2 | 0 1/2 | 0 0 1", b="1/6 1/3 1/3 1/6", c="0 1/2 1/2 1")

SOLVERS = {method.name: method for method in (euler, midpoint, heun, rk4)}
