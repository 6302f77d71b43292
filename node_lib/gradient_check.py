"""check_gradients: what a tape says against finite differences of the loss (Chapter 6)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf


class Checked(NamedTuple):
    """What was found in one input or variable, at the place of the largest difference."""

    name: str
    difference: float  # relative to the largest slope in this tensor; inf if all are zero
    problem: str  # a sentence, or "" where the gradient is right


class GradientReport(tuple[Checked, ...]):
    """One entry for each input and variable; printed, a table."""

    @property
    def worst(self) -> float:
        """The largest relative difference of all."""
        return max(row.difference for row in self)

    def __str__(self) -> str:
        width = max(len(row.name) for row in self)
        # What differs by less is equal for a finite difference, and its digits are noise.
        sizes = ["< 1e-09" if row.difference < 1e-9 else f"{row.difference:.1e}" for row in self]
        lines = [f"{'':{width}}  difference"]
        for row, size in zip(self, sizes, strict=True):
            lines.append(f"{row.name:{width}}  {size:>10}  {'WRONG' if row.problem else 'right'}")
        return "\n".join([*lines, *(row.problem for row in self if row.problem)])


def check_gradients(
    function: Callable[..., Any],
    inputs: Any,
    *,
    variables: Sequence[Any] = (),
    rtol: float = 1e-6,
    step: float = 1e-3,
    entries: int = 64,
    directions: int = 8,
    report_only: bool = False,
) -> GradientReport:
    """Hold the tape's gradient of a loss against finite differences of that loss.

        D(h) = (L(x + h d) - L(x - h d)) / 2h,    g . d = (4 D(h/2) - D(h)) / 3 + O(h^4)

    x is an input or a variable, g its gradient by the tape, d a direction: each entry in turn of
    a tensor of up to ``entries``, so that every sample of a batch is checked on its own; in a
    larger one, ``directions`` vectors of length 1 with random signs. For a layer of your own:
    ``check_gradients(layer, [z0, dt], variables=layer.trainable_variables)``.

    Args:
        function: ``function(*inputs)`` returns a loss, or any structure of tensors: it is
            multiplied by random numbers and summed. With ``tf.function(function)`` it is faster.
        inputs: its arguments, each a tensor or a structure of tensors; one tensor may stand alone.
            Those that are not floating point are passed on and not checked.
        variables: the variables to check, TensorFlow's or Keras's. They keep their values.
        rtol: the largest difference that is right, relative to the largest slope in the same
            tensor. A gradient with an error of its own, as the adjoint's, needs more.
        step: h, in the unit of x. Near 1e-3 the errors 1e-16 / h of rounding and h^4 balance.
        entries, directions: the largest tensor that is checked entry by entry, and how many random
            directions a larger one is checked along.
        report_only: return the report whatever it says.

    Returns:
        a GradientReport: print it, or look at its ``worst`` difference.

    Raises:
        AssertionError: a gradient is wrong or None, or the loss does not depend on what is to be
            checked, so that the check would prove nothing.
        TypeError: a tensor is not float64. In float32 the best step leaves about four digits.
        ValueError: the loss is NaN or infinite, or not the same when computed again.

    Source: Richardson, The deferred approach to the limit, Phil. Trans. R. Soc. A 226 (1927).
    Chapter 6 plants mistakes in an adjoint and finds them with this function.
    """
    inputs = inputs if isinstance(inputs, list | tuple) else [inputs]
    # dtype_hint: a bare number is double. A Keras variable holds one of TensorFlow.
    xs = [tf.convert_to_tensor(x, dtype_hint=tf.float64) for x in tf.nest.flatten(inputs)]
    sources = [*xs, *(v if isinstance(v, tf.Variable) else v.value for v in variables)]
    names = _names(function, inputs, variables)

    def loss() -> tf.Tensor:
        ys = tf.nest.flatten(function(*tf.nest.pack_sequence_as(inputs, xs)))
        ys = [_double(tf.convert_to_tensor(y), "the result of the function") for y in ys]
        if len(ys) == 1 and ys[0].shape.rank == 0:
            return ys[0]
        cotangents = [
            tf.random.stateless_normal(y.shape, [6, i], dtype=y.dtype) for i, y in enumerate(ys)
        ]
        return tf.add_n([tf.reduce_sum(c * y) for c, y in zip(cotangents, ys, strict=True)])

    def loss_at(i: int, moved: tf.Tensor) -> float:
        put = sources[i].assign if i >= len(xs) else lambda x: xs.__setitem__(i, x)
        kept = tf.identity(sources[i])
        put(moved)
        try:
            return float(loss())
        finally:
            put(kept)

    checked = [i for i, x in enumerate(sources) if x.dtype.is_floating and 0 not in x.shape]
    with tf.GradientTape() as tape:
        tape.watch([_double(sources[i], names[i]) for i in checked])
        value = loss()
    gradients = tape.gradient(value, [sources[i] for i in checked])
    if not float(value) - float(loss()) == 0:
        raise ValueError(f"the loss is {float(value)}, then {float(loss())}: it must be one number")
    rows = []
    for i, g in zip(checked, gradients, strict=True):
        slopes = []
        for place, d in _directions(sources[i], entries, directions):
            far, near = (
                (loss_at(i, sources[i] + e * d) - loss_at(i, sources[i] - e * d)) / (2 * e)
                for e in (step, step / 2)
            )
            by_tape = 0.0 if g is None else float(tf.reduce_sum(tf.convert_to_tensor(g) * d))
            slopes.append((by_tape, (4 * near - far) / 3, place, abs(near - far)))
        noise = 1e-14 * abs(float(value)) / step
        rows.append(_judged(names[i], g is None, slopes, rtol, noise))
    report = GradientReport(rows)
    if any(row.problem for row in report) and not report_only:
        raise AssertionError("\n".join(row.problem for row in report if row.problem))
    return report


def _judged(name: str, none: bool, slopes: list[Any], rtol: float, noise: float) -> Checked:
    """The place of the largest difference, and whether it is more than rounding explains."""
    scale = max(abs(slope) for by_tape, numeric, *_ in slopes for slope in (by_tape, numeric))
    gaps = [float("inf") if math.isnan(g - n) else abs(g - n) for g, n, *_ in slopes]
    gap, (by_tape, numeric, place, bend) = max(zip(gaps, slopes, strict=True))
    if scale <= noise:
        problem = f"the loss does not depend on {name}: a check of its gradient proves nothing"
        return Checked(name, float("inf"), problem)
    problem = ""
    if none:
        problem = f"{name} has no gradient (None), and at {place} it is {numeric:.6g}"
    elif not gap <= rtol * scale + noise:
        problem = f"the gradient of {name} at {place} is {by_tape:.6g}, and {numeric:.6g}"
    problem += " by finite differences" if problem else ""
    if problem and bend > gap / 10:
        problem += ", which differ as much among themselves: there is a kink near, or try a step"
    return Checked(name, gap / scale, problem)


def _directions(x: Any, entries: int, count: int) -> Iterator[tuple[str, tf.Tensor]]:
    """Places and directions in x: each entry, or random signs where there are many entries."""
    size = math.prod(x.shape)
    if size <= entries:
        for i in range(size):
            place = [int(n) for n in tf.unravel_index(i, x.shape)]
            yield f"entry {place}", tf.reshape(tf.one_hot(i, size, dtype=x.dtype), x.shape)
    else:
        for i in range(count):
            signs = tf.sign(tf.random.stateless_normal(x.shape, [i, 6], dtype=x.dtype))
            yield f"direction {i}", signs / math.sqrt(size)


def _names(function: Any, inputs: Sequence[Any], variables: Sequence[Any]) -> list[str]:
    """What the function calls its arguments, and the names of the variables."""
    parameters = inspect.signature(getattr(function, "call", function)).parameters
    arguments = [*parameters, *(f"input {i}" for i in range(len(parameters), len(inputs)))]
    names = []
    for name, x in zip(arguments, inputs, strict=False):
        n = len(tf.nest.flatten(x))
        names += [name] if n == 1 else [f"{name}, tensor {k}" for k in range(n)]
    return names + [str(getattr(v, "path", v.name)).removesuffix(":0") for v in variables]


def _double(x: Any, name: str) -> Any:
    if x.dtype != tf.float64:
        raise TypeError(f"{name} is {x.dtype.name}: a check to many digits needs float64")
    return x
