"""Keras layers around odeint, and the two ways to make dynamics of a network (Chapter 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import keras
import tensorflow as tf

from . import checks
from .gradients import Gradient
from .integrate import odeint
from .solvers import SOLVERS, Func, RungeKutta, Step, Structure, align, rk4

# A copy of this package under another name registers its layers under that name.
_PACKAGE = __package__ or "node_lib"


def _plain_solver(solver: str | Step) -> Any:
    """A solver as it is saved: its name where it has one, else its tableau, else Keras's form."""
    for name, method in SOLVERS.items():
        if solver in (method, name):
            return name
    if isinstance(solver, RungeKutta):
        return {"tableau": _fractions_to(str, dataclasses.asdict(solver))}
    return keras.saving.serialize_keras_object(solver)


def _solver_from_plain(plain: Any) -> str | Step:
    if isinstance(plain, str):
        return plain
    if "tableau" in plain:
        return RungeKutta(**_fractions_to(Fraction, plain["tableau"]))
    step: Step = keras.saving.deserialize_keras_object(plain)
    return step


def _fractions_to(kind: Callable[[Any], Any], tableau: dict[str, Any]) -> dict[str, Any]:
    """The tableau with kind(number) in place of each coefficient."""

    def convert(x: Any) -> Any:
        if isinstance(x, list | tuple):
            return tuple(convert(entry) for entry in x)
        return x if x is None else kind(x)

    plain = {"name", "order"}
    return {key: x if key in plain else convert(x) for key, x in tableau.items()}


@keras.saving.register_keras_serializable(_PACKAGE)
class Autonomous(keras.layers.Layer):
    """Dynamics that do not look at the time.

        f(t, z) = net(z)

    Args:
        net: a Keras layer or model, or any callable, of one input ``[batch, ...]``; its output
            has z's shape. It is dz/dt, in the unit of z over that of time.

    Chapter 4.
    """

    def __init__(self, net: Callable[[Any], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.net = net

    def build(self, t_shape: Any, z_shape: Any) -> None:
        """Create the network's variables. Keras calls it."""
        if isinstance(self.net, keras.layers.Layer) and not self.net.built:
            self.net.build(z_shape)

    def call(self, t: tf.Tensor, z: Structure) -> Structure:
        """dz/dt at (t, z)."""
        return self.net(z)

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` makes the layer of again, as plain data."""
        return {**super().get_config(), "net": keras.saving.serialize_keras_object(self.net)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Autonomous:
        """The layer that ``get_config`` described."""
        return cls(**{**config, "net": keras.saving.deserialize_keras_object(config["net"])})


@keras.saving.register_keras_serializable(_PACKAGE)
class ConcatTime(Autonomous):
    """Dynamics that see the time as one more feature, on the last axis of z.

        f(t, z) = net([z, t])                                                           (4.3)

    Args:
        net: a Keras layer or model, or any callable, of one input ``[..., features + 1]``; its
            output has z's shape, ``[..., features]``.

    Chapter 4.
    """

    def build(self, t_shape: Any, z_shape: Any) -> None:
        """Create the variables of the network, whose input has one more feature than z."""
        super().build(t_shape, (*z_shape[:-1], z_shape[-1] + 1))

    def call(self, t: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
        """dz/dt at (t, z): t a scalar, or one a sample; z ``[..., features]``."""
        ones = tf.ones_like(z[..., :1])
        t = align(tf.cast(t, z.dtype), z)
        # Each sample's own time may come as [batch, features], all alike.
        t = t[..., :1] if len(t.shape) else t
        return self.net(tf.concat([z, t * ones], axis=-1))


@keras.saving.register_keras_serializable(_PACKAGE)
class NeuralODE(keras.layers.Layer):
    """A layer whose output is the state of an ODE, z(t0 + dt), from its input z(t0).

        dz/dt = dynamics(t, z),    z(t0) = z0                                      (4.1)

    ``layer(z0)`` integrates over [t0, t0 + dt]; ``layer(z0, dt)`` takes the time span from the
    call: a scalar, or one for each sample, ``[batch, 1]`` (or ``[batch, dim]``, one for each
    component).

    Args:
        dynamics: a Keras layer or any callable ``f(t, z)`` that returns dz/dt with z's structure
            and shapes. ``Autonomous(net)`` and ``ConcatTime(net)`` make one of a network.
        dt: the time span where the call gives none. Negative spans run backward. In the unit of
            time that the dynamics assume.
        t0: the time of z0, in the same unit.
        solver: a name in ``SOLVERS``, a ``RungeKutta``, or ``step(func, t, h, z)``.
        steps: the number of equal steps, or None for adaptive steps within the tolerances.
        rtol, atol: the relative and the absolute tolerance of adaptive steps.
        max_steps: how many adaptive steps may be tried.
        per_sample: each sample takes its own adaptive steps.
        gradient: ``"backprop"``, ``"checkpoint"``, ``"adjoint"`` or ``"reversible"``, as in
            ``odeint``.
        return_states: also return the state after each step, ``[steps, ...]``. Gradients flow
            into all of them.

    Returns:
        z(t0 + dt) with z0's structure, shapes and dtype; with ``return_states`` the pair
        ``(z1, states)``.

    Raises:
        ValueError, TypeError: as ``odeint``, when the layer is made or called.
        RuntimeError: as ``odeint``, where adaptive steps do not arrive.

    ``solver``, ``steps``, ``rtol``, ``atol`` and all other settings may be changed after training:
    train precise, serve fast. (What Keras has traced for a model goes on as it was, until
    ``model.make_predict_function(force=True)`` or ``model.compile`` traces it anew.) The state
    keeps the precision of the layer's variables (float32 under a mixed policy). Called eagerly,
    the layer compiles its solve once and calls it again from then on.

    Source: Chen et al., Neural Ordinary Differential Equations (2018), arXiv 1806.07366.
    Chapter 4.
    """

    def __init__(
        self,
        dynamics: Func,
        *,
        dt: float = 1.0,
        t0: float = 0.0,
        solver: str | Step = "rk4",
        steps: int | None = 10,
        rtol: float = 1e-5,
        atol: float = 1e-6,
        gradient: Gradient = "checkpoint",
        per_sample: bool = False,
        max_steps: int = 1000,
        return_states: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        if not callable(dynamics):
            raise TypeError(f"dynamics is {dynamics!r}: it must be a callable f(t, z)")
        self.dynamics = dynamics
        self.dt, self.t0 = dt, t0
        self.solver, self.steps, self.gradient = solver, steps, gradient
        self.rtol, self.atol = checks.tolerances(rtol, atol, max_steps, "raise")
        self.max_steps = max_steps
        self.per_sample = per_sample
        self.return_states = return_states
        checks.settings(solver, steps, gradient)
        checks.flag(per_sample, "per_sample")
        if return_states and steps is None:
            raise ValueError(
                "return_states=True with steps=None: adaptive steps have no fixed number of "
                "states; give steps, or ask odeint for the times that you want"
            )
        self._compiled_solve = tf.function(self._solve, reduce_retracing=True)

    def build(self, z0_shape: Any, dt_shape: Any = None) -> None:
        """Create the variables of the dynamics. Keras calls it."""
        dtype = self.variable_dtype
        t_shape = [] if dt_shape is None else dt_shape
        if isinstance(self.dynamics, keras.layers.Layer):
            # Keras creates the variables of a layer outside of any graph, as tf.distribute needs.
            z = _map_shapes(lambda s: keras.KerasTensor(s, dtype), z0_shape)
            self.dynamics(keras.KerasTensor(t_shape, dtype), z)
            return
        # Tracing once creates the variables of any other dynamics.
        z_specs = _map_shapes(lambda s: tf.TensorSpec(s, dtype), z0_shape)
        tf.function(self.dynamics, autograph=False).get_concrete_function(
            tf.TensorSpec(t_shape, dtype), z_specs
        )

    def __call__(self, z0: Structure, dt: Any = None, **kwargs: Any) -> Structure:
        """z(t0 + dt) from z0 = z(t0): what ``call`` does, with dt as a bare number too."""
        # Keras takes only tensors by position; a bare number is welcome here.
        if isinstance(dt, int | float):
            dt = tf.constant(dt, self.variable_dtype)
        return super().__call__(z0, dt, **kwargs)

    def call(self, z0: Structure, dt: Any = None) -> Structure:
        """Solve over [t0, t0 + dt].

        Args:
            z0: the state at t0, ``[batch, ...]``, or a structure of such tensors.
            dt: the time span: a scalar, ``[batch, 1]`` or ``[batch, dim]``; the layer's without it.

        Returns:
            z(t0 + dt), structured as z0; with ``return_states`` a pair of it and all states.
        """
        z0 = tf.nest.map_structure(lambda x: tf.cast(x, self.variable_dtype), z0)
        dt = self._time(self.dt if dt is None else dt)
        t0 = self._time(self.t0)
        solve = self._compiled_solve if tf.executing_eagerly() else self._solve
        return solve(z0, t0, dt, self.return_states, solver=self.solver, **self._settings())

    def _time(self, x: Any) -> tf.Tensor:
        # tf.cast would take a Python number through float32.
        if tf.is_tensor(x):
            return tf.cast(x, self.variable_dtype)
        return tf.convert_to_tensor(x, self.variable_dtype)

    def _settings(self) -> dict[str, Any]:
        """How to solve, beside the solver: arguments of odeint and part of the configuration."""
        names = ("steps", "rtol", "atol", "gradient", "per_sample", "max_steps")
        return {name: getattr(self, name) for name in names}

    def _solve(
        self, z0: Any, t0: tf.Tensor, dt: tf.Tensor, return_states: bool, **settings: Any
    ) -> Any:
        return solve_span(self._func, z0, t0, dt, return_states, **settings)

    def _func(self, t: tf.Tensor, z: Any) -> Any:
        """The dynamics, their result in the state's precision whatever they compute in."""
        return tf.nest.map_structure(lambda k: tf.cast(k, self.variable_dtype), self.dynamics(t, z))

    def compute_output_spec(self, z0: Structure, dt: Any = None) -> Structure:
        """Shapes and dtypes of what a call returns. Keras calls it for functional models."""

        def spec(x: Any, leading: tuple[int | None, ...] = ()) -> keras.KerasTensor:
            return keras.KerasTensor((*leading, *x.shape), dtype=self.variable_dtype)

        z1 = keras.tree.map_structure(spec, z0)
        if not self.return_states:
            return z1
        return z1, keras.tree.map_structure(lambda x: spec(x, (self.steps,)), z0)

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` makes the layer of again, as plain data."""
        config = super().get_config()
        config.pop("autocast", None)
        return {
            **config,
            "dynamics": keras.saving.serialize_keras_object(self.dynamics),
            "dt": self.dt,
            "t0": self.t0,
            "solver": _plain_solver(self.solver),
            **self._settings(),
            "return_states": self.return_states,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> NeuralODE:
        """The layer that ``get_config`` described, untrained."""
        config = dict(config)
        config["dynamics"] = keras.saving.deserialize_keras_object(config["dynamics"])
        config["solver"] = _solver_from_plain(config["solver"])
        return cls(**config)

    def __repr__(self) -> str:
        solver = getattr(self.solver, "name", self.solver)
        how = f"steps={self.steps}"
        if self.steps is None:
            how = f"rtol={self.rtol}, atol={self.atol}"
        return (
            f"NeuralODE({self.dynamics!r}, dt={self.dt}, t0={self.t0}, solver={solver!r}, {how}, "
            f"gradient={self.gradient!r})"
        )


def _map_shapes(function: Callable[[Any], Any], shapes: Any) -> Any:
    """function of each shape in a structure of shapes; a shape is a tuple of numbers and None."""
    if isinstance(shapes, dict):
        return {name: _map_shapes(function, shape) for name, shape in shapes.items()}
    if all(n is None or isinstance(n, int) for n in shapes):
        return function(shapes)
    return type(shapes)(_map_shapes(function, shape) for shape in shapes)


def get_neural_ode_layer(
    ode_func: Func, num_samples: int = 10, method: Step = rk4, return_states: bool = False
) -> Callable[[Structure, Any], Structure]:
    """A function ``layer(z0, dt)`` that solves an ODE over [0, dt].

        dz/dt = ode_func(t, z),    z(0) = z0                                            (4.1)

    The smallest way to a Neural ODE: no Keras layer, any step function, adjoint gradient of z0,
    of dt and of every variable that ode_func reads.

    Args:
        ode_func: ``ode_func(t, z)`` returns dz/dt with the structure of z.
        num_samples: the number of equal steps in dt.
        method: a step function ``method(func, t, h, z)``, such as ``euler`` or ``rk4``.
        return_states: return the states after each step instead of the last one.

    Returns:
        The function ``layer(z0, dt)``. z0 is a tensor ``[..., dim]`` or a structure of them, dt a
        scalar or ``[..., 1]`` or ``[..., dim]``. It returns z at dt, with the structure and shapes
        of z0; with ``return_states`` each tensor has a leading axis ``[num_samples, ...]``.

    Raises:
        ValueError, TypeError: as ``odeint``.

    Source: Chen et al., Neural Ordinary Differential Equations (2018), arXiv 1806.07366.
    Chapter 4 writes it out; its gradient is the adjoint of Chapter 5.
    """
    checks.settings(method, num_samples, "adjoint")

    def layer(z0: Structure, dt: Any) -> Structure:
        dtype = tf.convert_to_tensor(tf.nest.flatten(z0)[0]).dtype
        dt = tf.convert_to_tensor(dt, dtype)
        settings = {"solver": method, "steps": num_samples, "gradient": "adjoint"}
        solution = solve_span(ode_func, z0, tf.zeros_like(dt), dt, return_states, **settings)
        return solution[1] if return_states else solution

    return layer


def solve_span(
    func: Func, z0: Any, t0: tf.Tensor, dt: tf.Tensor, return_states: bool, **settings: Any
) -> Any:
    """z(t0 + dt), or the pair of it and the states after each of the steps, [steps, ...]."""
    times = 2
    if return_states:
        times = settings["steps"] + 1
        settings["steps"] = 1
    parts = tf.range(times, dtype=dt.dtype) / (times - 1)
    t = t0 + tf.reshape(parts, [-1] + [1] * len(dt.shape)) * dt
    z = odeint(func, z0, t, **settings)
    z1 = tf.nest.map_structure(lambda x: x[-1], z)
    return (z1, tf.nest.map_structure(lambda x: x[1:], z)) if return_states else z1
