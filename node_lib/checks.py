"""Every input error, in one place: what the argument is called, what it was, what it must be."""

from __future__ import annotations

import numbers
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from .adaptive import NOT_FINITE, RUNNING, UNDERFLOW
from .gradients import GRADIENTS
from .solvers import SOLVERS, RungeKutta, Step, Structure


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


def state(z0: Structure, name: str = "z0") -> Structure:
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


def times(t: Any, z0: Structure) -> tf.Tensor:
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


def batch(z0: Structure) -> None:
    """per_sample needs a first axis of one length on every leaf."""
    shapes = [leaf.shape for leaf in tf.nest.flatten(z0)]
    if any(shape.rank == 0 for shape in shapes) or not all(
        shape[:1].is_compatible_with(shapes[0][:1]) for shape in shapes
    ):
        raise ValueError(
            f"per_sample=True with states of shapes {', '.join(map(str, shapes))}: axis 0 of "
            "every tensor must be the batch, with one length"
        )


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


def slope(dz: Structure, z: Structure) -> list[tf.Tensor]:
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


def settings(solver: str | Step, steps: Any, gradient: str) -> tuple[Step, int | None]:
    """The step function and the number of steps (None: adaptive), and a gradient that exists."""
    step = _solver(solver)
    _choice(gradient, GRADIENTS, "gradient")
    steps = _steps(steps, step)
    if gradient == "reversible" and steps is None:
        raise ValueError(
            'gradient="reversible" with steps=None: the reversible scheme needs fixed steps; give '
            'steps, or use gradient="checkpoint"'
        )
    return step, steps


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


def _steps(n: Any, method: Any) -> int | None:
    """The number of equal steps in each interval, at least one; None: adaptive."""
    if n is None:
        if isinstance(method, RungeKutta) and method.b_error is not None:
            return None
        name = method.name if isinstance(method, RungeKutta) else repr(method)
        raise ValueError(
            f"steps is None, and the solver {name} has no error estimate to choose its own steps: "
            "give the number of equal steps in each interval, such as steps=20"
        )
    return _whole(n, "steps")


def _choice(value: str, known: Sequence[str], name: str) -> str:
    """value, if it is one of the known names."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(known)}")
    return value


def _whole(n: Any, name: str) -> int:
    """n, if it is a whole number and at least 1."""
    if isinstance(n, bool) or not isinstance(n, numbers.Integral):
        raise TypeError(f"{name} is {n!r}: it must be a whole number")
    if n < 1:
        raise ValueError(f"{name} is {n}: it must be at least 1")
    return int(n)


def tolerances(rtol: float, atol: float, max_steps: int, on_failure: str) -> None:
    """The settings of adaptive steps: positive, finite and not all zero."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value!r}: it must be a positive number")
    _whole(max_steps, "max_steps")
    _choice(on_failure, ("raise", "nan"), "on_failure")


def arrived(report: tf.Tensor, t: tf.Tensor, max_steps: int) -> None:
    """Raise if an adaptive solve did not reach its end; XLA cannot raise and has NaN instead."""
    if 0 in report.shape:  # an empty batch
        return
    report = tf.reshape(report, [5, -1])  # one column, or one a sample
    worst = tf.argmin(report[3])
    _, accepted, status, s, h = tf.unstack(report[:, worst])
    failed = tf.reduce_sum(tf.cast(report[3] < 1, tf.int32))

    def of_worst(x: tf.Tensor) -> tf.Tensor:
        x = tf.reshape(x, [-1])
        return x[tf.minimum(worst, tf.size(x, tf.int64) - 1)]

    start, span = of_worst(t[0]), of_worst(t[-1] - t[0])
    values = {
        "at": start + s * span,
        "end": start + span,
        "step": tf.abs(h * span),
        "accepted": accepted,
        "failed": failed,
        "samples": tf.shape(report)[1],
    }
    where = "in {failed} of {samples} samples, " if report.shape[1] != 1 else ""
    sentences = {
        UNDERFLOW: "the step size fell to {step} at t = {at} WHERE"
        "where it no longer changes t: raise rtol and atol, or use float64; "
        "the problem may be stiff or singular there",
        NOT_FINITE: "func(t, z) gave NaN or infinity near t = {at} WHERE"
        "and no step, however small, avoids it: look at func there, "
        "or at whether the solution exists beyond that time",
        RUNNING: f"max_steps = {max_steps} steps, of which "
        "{accepted} were accepted, reached t = {at} of {end} WHERE"
        "with a step size of {step} at the end: raise max_steps, rtol or atol; "
        "a stiff problem needs many steps",
    }
    for reason, sentence in sentences.items():
        sentence = sentence.replace("WHERE", where)
        fine = (s >= 1) | tf.not_equal(tf.cast(status, tf.int32), reason)
        if not tf.executing_eagerly():
            pieces = re.split(r"\{(\w+)\}", sentence)
            tf.debugging.Assert(fine, [values.get(piece, piece.strip()) for piece in pieces])
        elif not fine:
            words = {name: f"{float(value):.6g}" for name, value in values.items()}
            raise RuntimeError(sentence.format(**words))
