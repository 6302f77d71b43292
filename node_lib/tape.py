"""Differentiating by hand: what a function reads, vector-Jacobian products, own gradients.

Chapter 6 explains the parts: ``tf.custom_gradient`` and the vector-Jacobian product.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from .fixed_grid import FlatFunc, States

# Operations that draw or write; those of TensorFlow's stateless generators do neither.
_NOT_REPEATABLE = (
    *("Assign", "Multinomial", "ParameterizedTruncatedNormal", "Random", "ResourceScatter", "Rng"),
    *("StatefulRandom", "StatefulStandardNormal", "StatefulTruncatedNormal", "StatefulUniform"),
    "TruncatedNormal",
)


def differentiable(
    gradient: str,
    forward: Callable[..., tuple[States, States]],
    backward: Callable[[States, States, States], States],
    inputs: States,
    read: list[Any],
) -> States:
    """The outputs of forward, with backward for their gradient in place of the tape.

    forward(*inputs) returns the outputs and what is kept for the way back. backward(kept, inputs,
    cotangents) returns the gradients of the inputs and of what was read.
    """
    size = len(inputs)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def outputs_of(*arguments: tf.Tensor) -> Any:
        inputs = list(arguments[:size])
        with _nothing_recorded():
            outputs, kept = forward(*inputs)

        def grad(*cotangents: tf.Tensor, variables: Sequence[tf.Variable] | None = None) -> Any:
            run = _differentiable_once(
                lambda *_: backward(kept, inputs, list(cotangents)), gradient
            )
            grads = run(*cotangents, *arguments)
            grads = [tf.cast(g, x.dtype) for g, x in zip(grads, arguments, strict=True)]
            return (grads, [None] * len(variables)) if variables else grads

        return outputs, grad

    # A variable enters as its value, so that its gradient is one more output like any other.
    outputs: States = outputs_of(*inputs, *[tf.convert_to_tensor(x) for x in read])
    return outputs


def reads(func: FlatFunc, t: tf.Tensor, zs: States) -> tuple[list[Any], FlatFunc]:
    """The float variables and tensors that func reads beside its arguments, and func to evaluate.

    Tracing func shows them all, also those that no tape would find: variables that are not
    trainable, and tensors that func closes over. In eager mode the traced func takes the place of
    func where nothing is recorded: a tape that func opens itself was at work when it was traced.
    """
    t_spec = tf.TensorSpec(t.shape, t.dtype)
    z_specs = [tf.TensorSpec(z.shape, z.dtype) for z in zs]
    traced = tf.function(func, autograph=False).get_concrete_function(t_spec, z_specs)
    _warn_if_not_repeatable(traced.graph.as_graph_def())
    found = [*traced.graph.variables, *traced.captured_inputs]
    read = [x for x in found if x.dtype.is_floating]
    return read, traced if tf.executing_eagerly() else func


def _warn_if_not_repeatable(graph: Any) -> None:
    """Modes that trace func evaluate it again on the way back, and must meet it unchanged."""
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    if any(node.op.startswith(_NOT_REPEATABLE) for node in nodes):
        warnings.warn(
            "func draws random numbers or changes variables, as Dropout and BatchNormalization do "
            'in training. Every gradient but "backprop" evaluates it again on the way back, where '
            "it answers otherwise: draw before the solve and let func read what was drawn, or use "
            'gradient="backprop" (Chapter 8)',
            stacklevel=4,
        )


def vjp(
    function: Callable[[], States], sources: Sequence[Any], cotangents: States
) -> tuple[States, States]:
    """function() and, from the same evaluation, cotangents^T d function() / d source."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sources)
        value = function()
    return value, gradient_of(tape, value, sources, cotangents)


def gradient_of(
    tape: tf.GradientTape, value: Any, sources: Sequence[Any], cotangents: Any
) -> States:
    """Dense gradients, zero where there is no connection, in the dtype of the cotangents."""
    grads = tape.gradient(
        value, sources, cotangents, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    dtype = tf.nest.flatten(cotangents)[0].dtype
    return [tf.cast(tf.convert_to_tensor(g), dtype) for g in grads]


def zeros_like(xs: Sequence[Any], dtype: tf.DType) -> States:
    """Zeros in the shapes of xs, all of one dtype."""
    return [tf.zeros(tf.shape(x), dtype) for x in xs]


def add(xs: States, ys: States) -> States:
    """Each leaf of xs plus that of ys."""
    return [x + y for x, y in zip(xs, ys, strict=True)]


def _nothing_recorded() -> contextlib.AbstractContextManager[None]:
    """Pause every tape in eager mode, where an outer tape would keep all of the solver's work."""
    return tf.init_scope() if tf.executing_eagerly() else contextlib.nullcontext()


def _differentiable_once(backward: Callable[..., States], gradient: str) -> Callable[..., States]:
    """backward, with an error in place of a second derivative that would be wrong."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def once(*inputs: tf.Tensor) -> Any:
        def grad(*_: Any, variables: Any = None) -> Any:
            raise NotImplementedError(
                f'gradient="{gradient}" can be differentiated once: for second derivatives use '
                'gradient="backprop"'
            )

        return backward(*inputs), grad

    run: Callable[..., States] = once
    return run
