"""Every input error, in one place: what the argument is called, what it was, what it must be."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from .gradients import GRADIENTS
from .solvers import SOLVERS, RungeKutta, Step


def _require(condition: Any, message: str) -> None:
    """Raise ValueError if the condition is known to be false now, else check it when it is.

    Inside a tf.function values are not known yet: there the graph raises InvalidArgumentError.
    Code compiled by XLA cannot raise, and goes on.
    """
    value = tf.get_static_value(condition)
    if value is None:
        tf.debugging.Assert(condition, [message])
    elif not value:
        raise ValueError(message)


def state(z0: Any, name: str = "z0") -> Any:
    """z0 with every leaf a finite tensor of one floating-point dtype."""
    leaves = tf.nest.flatten(z0)
    if not leaves:
        raise ValueError(f"{name} holds no tensor: it must be a tensor or a structure of tensors")
    if tf.nest.is_nested(z0) and all(isinstance(x, numbers.Number) for x in leaves):
        raise TypeError(
            f"{name} is {z0!r}, a structure of bare numbers: pass one tensor, such as "
            "tf.constant([1.0, 2.0]), or a structure of tensors"
        )
    z0 = tf.nest.map_structure(tf.convert_to_tensor, z0)
    leaves = tf.nest.flatten(z0)
    for leaf in leaves:
        if not leaf.dtype.is_floating:
            raise TypeError(
                f"{name} has a tensor of dtype {leaf.dtype.name}: states must be floating point; "
                "convert it with tf.cast(x, tf.float32)"
            )
        if leaf.shape.rank is None:
            raise ValueError(
                f"{name} has a tensor of unknown rank: give it one with tf.ensure_shape"
            )
    dtypes = sorted({leaf.dtype.name for leaf in leaves})
    if len(dtypes) > 1:
        raise TypeError(f"{name} mixes the dtypes {', '.join(dtypes)}: all must be the same")
    for leaf in leaves:
        finite = tf.reduce_all(tf.math.is_finite(leaf))
        _require(finite, f"{name} has a value that is NaN or infinite: it must be finite")
    return z0


def times(t: Any, z0: Any) -> tf.Tensor:
    """t as a tensor [T] or [T, batch, 1], finite and monotonic, that broadcasts against z0."""
    leaves = tf.nest.flatten(z0)
    dtype = leaves[0].dtype
    if isinstance(t, tf.Tensor | tf.Variable) and t.dtype != dtype:
        raise TypeError(
            f"t has dtype {t.dtype.name} and z0 has {dtype.name}: they must be the same; "
            f"convert t with tf.cast(t, tf.{dtype.name})"
        )
    t = tf.convert_to_tensor(t, dtype)
    if t.shape.rank is None or t.shape.rank < 1:
        raise ValueError(
            f"t has shape {t.shape}: it must hold at least two times, [T] or [T, batch, 1]"
        )
    if t.shape[0] is not None and t.shape[0] < 2:
        raise ValueError(
            f"t holds {t.shape[0]} time(s): it must hold at least two, the first that of z0"
        )
    if t.shape.rank > 1:
        for leaf in leaves:
            _check_broadcast(t.shape[1:], leaf.shape)
    _require(
        tf.reduce_all(tf.math.is_finite(t)),
        "t has a time that is NaN or infinite: all must be finite",
    )
    gaps = t[1:] - t[:-1]
    monotonic = tf.reduce_all(gaps >= 0, axis=0) | tf.reduce_all(gaps <= 0, axis=0)
    _require(
        tf.reduce_all(monotonic),
        "t goes forward and then back: the times (of each sample) must be increasing or decreasing",
    )
    return t


def _check_broadcast(row: tf.TensorShape, leaf: tf.TensorShape) -> None:
    """Whether one row of times a sample pairs with the axes of a state, from the first axis on."""
    shared = list(zip(row, leaf, strict=False))
    fits = all(n is None or m is None or n in (1, m) for n, m in shared)
    fits = fits and all(n == 1 for n in row[len(leaf) :])
    fits = fits and (len(row) >= min(2, len(leaf)))
    if not fits:
        raise ValueError(
            f"t has shape [T, {', '.join(map(str, row))}] and z0 has a tensor of shape {leaf}: one "
            "row of times a sample must have shape [T, batch, 1]"
        )


def slope(dz: Any, z: Any) -> list[tf.Tensor]:
    """The leaves of func's result, which must have z's structure, shapes and dtype."""
    try:
        tf.nest.assert_same_structure(z, dz)
        if any(k is None for k in tf.nest.flatten(dz)):
            raise TypeError("a leaf is None")
    except (TypeError, ValueError) as error:
        raise ValueError(
            "func(t, z) returned another structure than z: it must return dz/dt with z's "
            f"structure. z: {_outline(z)}; returned: {_outline(dz)}"
        ) from error
    leaves = []
    for k, leaf in zip(tf.nest.flatten(dz), tf.nest.flatten(z), strict=True):
        k = tf.convert_to_tensor(k) if tf.is_tensor(k) else tf.convert_to_tensor(k, leaf.dtype)
        if k.dtype != leaf.dtype:
            raise TypeError(
                f"func(t, z) returned dtype {k.dtype.name} for a state of dtype {leaf.dtype.name}: "
                "it must return the state's dtype"
            )
        if not k.shape.is_compatible_with(leaf.shape):
            raise ValueError(
                f"func(t, z) returned shape {k.shape} for a state of shape {leaf.shape}: "
                "dz/dt must have the shape of z"
            )
        # A func that hides its static shape would change the shape of a loop variable.
        leaves.append(k if k.shape == leaf.shape else tf.ensure_shape(k, leaf.shape))
    return leaves


def _outline(structure: Any) -> str:
    """A structure with the shape of each tensor in place of its values."""
    if isinstance(structure, Mapping):
        return "{" + ", ".join(f"{k!r}: {_outline(v)}" for k, v in structure.items()) + "}"
    if isinstance(structure, list | tuple):
        return f"{type(structure).__name__}({', '.join(map(_outline, structure))})"
    return str(list(structure.shape)) if hasattr(structure, "shape") else repr(structure)


def settings(solver: str | Step, steps: Any, gradient: str) -> tuple[Step, int]:
    """The step function and the number of steps, and a gradient mode that exists."""
    step = _solver(solver)
    _choice(gradient, GRADIENTS, "gradient")
    return step, _steps(steps, step)


def _solver(method: str | Step) -> Step:
    """A step function from a solver's name, a RungeKutta, or a step function of your own."""
    if isinstance(method, str):
        return SOLVERS[_choice(method, list(SOLVERS), "solver")]
    if not callable(method):
        raise TypeError(
            f"solver is {method!r}: it must be one of {', '.join(SOLVERS)}, a RungeKutta, or a "
            "function step(func, t, h, z) that returns z at t + h"
        )
    return method


def _choice(value: str, known: Sequence[str], name: str) -> str:
    """value, if it is one of the known names."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(known)}")
    return value


def _steps(n: Any, method: Any) -> int:
    """The number of equal steps in each interval, at least one."""
    if n is None:
        name = method.name if isinstance(method, RungeKutta) else repr(method)
        raise ValueError(
            f"steps is None, and the solver {name} has no error estimate to choose its own steps: "
            "give the number of equal steps in each interval, such as steps=20"
        )
    if isinstance(n, bool) or not isinstance(n, numbers.Integral):
        raise TypeError(f"steps is {n!r}: it must be a whole number")
    if n < 1:
        raise ValueError(f"steps is {n}: it must be at least 1")
    return int(n)
