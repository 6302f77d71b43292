"""Every input error, in one place: what the argument is called, what it was, what it must be."""

from __future__ import annotations

import functools
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from .adaptive import NOT_FINITE, RUNNING, UNDERFLOW
from .gradients import GRADIENTS
from .solvers import SOLVERS, Func, RungeKutta, Step, Structure


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
    z0 = tf.nest.map_structure(lambda x: _tensor(x, name), z0)
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
    t = _tensor(t, "t", dtype)
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
    _require(
        tf.reduce_all(tf.math.is_finite(t[-1] - t[0])),
        f"t has a span that is infinite in {dtype.name}: its ends must be less far apart",
    )
    gaps = t[1:] - t[:-1]
    monotonic = tf.reduce_all(gaps >= 0, axis=0) | tf.reduce_all(gaps <= 0, axis=0)
    _require(
        tf.reduce_all(monotonic),
        "t goes forward and then back: the times (of each sample) must be increasing or decreasing",
    )
    return t


def _tensor(x: Any, name: str, dtype: tf.DType | None = None) -> tf.Tensor:
    """x as a tensor, with its name in the error if it cannot be one."""
    try:
        return tf.convert_to_tensor(x, dtype)
    except (TypeError, ValueError) as error:
        what = "a tensor, or numbers that make one" if dtype is None else f"{dtype.name} numbers"
        raise TypeError(f"{name} is {x!r}: it must be {what}") from error


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
    return _like(z, dz, "func(t, z)", "dz/dt")


def own_step(step: Step) -> Step:
    """A step function of the user's own, its result held to z's structure, shapes and dtype."""

    def checked(func: Func, t: Any, h: Any, z: Structure) -> Structure:
        z1 = step(func, t, h, z)
        leaves = _like(z, z1, "solver(func, t, h, z)", "z at t + h")
        return tf.nest.pack_sequence_as(z, leaves)

    return checked


def _like(z: Structure, result: Any, call: str, what: str) -> list[tf.Tensor]:
    """The leaves of a result that must have z's structure, shapes and dtype."""
    try:
        tf.nest.assert_same_structure(z, result)
        if any(k is None for k in tf.nest.flatten(result)):
            raise TypeError("a leaf is None")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{call} returned another structure than z: it must return {what} with z's "
            f"structure. z: {_outline(z)}; returned: {_outline(result)}"
        ) from error
    leaves = []
    for k, leaf in zip(tf.nest.flatten(result), tf.nest.flatten(z), strict=True):
        k = _tensor(k, f"what {call} returned", None if tf.is_tensor(k) else leaf.dtype)
        if k.dtype != leaf.dtype:
            raise TypeError(
                f"{call} returned dtype {k.dtype.name} for a state of dtype {leaf.dtype.name}: "
                "it must return the state's dtype"
            )
        if not k.shape.is_compatible_with(leaf.shape):
            raise ValueError(
                f"{call} returned shape {k.shape} for a state of shape {leaf.shape}: "
                f"{what} must have the shape of z"
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


def function(func: Any) -> None:
    """func can be called."""
    if not callable(func):
        raise TypeError(f"func is {func!r}: it must be a function func(t, z) that returns dz/dt")


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
    if isinstance(method, RungeKutta):
        return method
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
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(known)}")
    return value


def _whole(n: Any, name: str) -> int:
    """n, if it is a whole number and at least 1."""
    if isinstance(n, bool) or not isinstance(n, numbers.Integral):
        raise TypeError(f"{name} is {n!r}: it must be a whole number")
    if n < 1:
        raise ValueError(f"{name} is {n}: it must be at least 1")
    if n > tf.int32.max:
        raise ValueError(f"{name} is {n}: it must be at most {tf.int32.max}")
    return int(n)


def flag(value: Any, name: str) -> None:
    """A setting that is on or off."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}: it must be True or False")


def tolerances(
    rtol: Any, atol: Any, max_steps: int, on_failure: str, dtype: tf.DType = tf.float32
) -> tuple[Any, Any]:
    """rtol and atol, positive and finite; and the other settings of adaptive steps."""
    _whole(max_steps, "max_steps")
    _choice(on_failure, ("raise", "nan"), "on_failure")
    return _tolerance(rtol, "rtol", dtype), _tolerance(atol, "atol", dtype)


def _tolerance(value: Any, name: str, dtype: tf.DType) -> Any:
    """A positive number, or a tensor of a value that a graph learns only when it runs."""
    number = isinstance(value, numbers.Real) or tf.is_tensor(value) or hasattr(value, "dtype")
    if not number or isinstance(value, bool) or tuple(getattr(value, "shape", ())) != ():
        raise TypeError(f"{name} is {value!r}: it must be one number")
    if tf.is_tensor(value):
        known = tf.get_static_value(value)
        if known is None:
            fine = (value > 0) & tf.math.is_finite(value)
            _require(fine, f"{name} is not a positive number")
            return tf.stop_gradient(tf.cast(value, dtype))
        value = known  # AutoGraph would make a tensor of float(tensor)
    try:
        value = float(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}: it must be one number") from None
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value!r}: it must be a positive number")
    return value


def arrived(report: tf.Tensor, t: tf.Tensor, max_steps: int, what: str = "") -> None:
    """Raise if an adaptive solve did not reach its end; XLA cannot raise and has NaN instead."""
    # One column, or one a sample; a column more, which has arrived, for a batch that is empty.
    samples = tf.size(report[0])
    report = tf.cast(tf.reshape(report, [5, -1]), t.dtype)
    one = report.shape[1] == 1
    if not one:
        report = tf.concat([report, tf.ones([5, 1], t.dtype)], axis=1)
    worst = tf.argmin(report[3])
    _, accepted, status, s, h = tf.unstack(report[:, worst])
    failed = tf.reduce_sum(tf.cast(report[3] < 1, tf.int32))

    def of_worst(x: tf.Tensor) -> tf.Tensor:
        x = tf.concat([tf.reshape(x, [-1]), tf.zeros([1], x.dtype)], axis=0)
        return x[tf.minimum(worst, tf.maximum(tf.size(x, tf.int64) - 2, 0))]

    start, span = of_worst(t[0]), of_worst(t[-1] - t[0])
    values = {
        "at": start + s * span,
        "end": start + span,
        "step": tf.abs(h * span),
        "accepted": accepted,
        "failed": failed,
        "samples": samples,
    }
    where = "" if one else "in {failed} of {samples} samples, "
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
        sentence = what + sentence.replace("WHERE", where)
        fine = (s >= 1) | tf.not_equal(tf.cast(status, tf.int32), reason)
        if not tf.executing_eagerly():
            pieces = re.split(r"\{(\w+)\}", sentence)
            pieces = [piece.strip() for piece in pieces]
            tf.debugging.Assert(fine, [values.get(piece, piece) for piece in pieces])
        elif not fine:
            words = {name: f"{float(value):.6g}" for name, value in values.items()}
            raise RuntimeError(sentence.format(**words))


def no_nan(rows: list[tf.Tensor], t: tf.Tensor) -> None:
    """Raise if a state on the fixed grid is NaN, which only func or an overflow can have made."""
    nan = [tf.reduce_any(tf.math.is_nan(row), axis=list(range(1, row.shape.rank))) for row in rows]
    bad = functools.reduce(tf.logical_or, nan)
    fine = tf.logical_not(tf.reduce_any(bad))
    if tf.executing_eagerly() and fine:
        return
    j = tf.argmax(tf.cast(bad, tf.int32))
    pieces = [
        "the state is NaN at t =",
        t[j] if t.shape.rank == 1 else tf.reduce_max(t[j]),
        "and not before: look at what func(t, z) gives up to there; if the state grew without "
        "bound, take more steps",
    ]
    if not tf.executing_eagerly():
        tf.debugging.Assert(fine, pieces)
    else:
        raise RuntimeError(" ".join(x if isinstance(x, str) else f"{float(x):.6g}" for x in pieces))
