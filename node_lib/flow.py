"""Densities carried by an ODE: continuous normalizing flows (Chapter 13)."""

from __future__ import annotations

import math
from typing import Any, Literal

import keras
import tensorflow as tf

from . import checks
from .layer import _PACKAGE, NeuralODE, solve_span

TRACES = ("exact", "hutchinson")
NOISES = ("rademacher", "gaussian")


@keras.saving.register_keras_serializable(_PACKAGE)
class ContinuousFlow(keras.layers.Layer):
    """A probability density, made of a normal one that an ODE carries along.

        z(t0) ~ N(0, I),    dz/dt = f(t, z),    x = z(t0 + dt)
        d log p(z(t)) / dt = -tr(df/dz)                                                 (13.5)

    ``flow(x)`` is ``flow.log_prob(x)``, so a model of it trains by maximum likelihood with
    ``fit(x, x)`` and the loss ``lambda _, log_p: -log_p``.

    Args:
        ode: the ``NeuralODE`` that carries the points, with its dynamics f, t0, dt and all
            settings of the solver. They may be changed after training: ``flow.ode.steps = 40``.
            f must treat each sample by itself: what mixes a batch has another trace.
        dim: the number of components of x and z.
        trace: ``"exact"`` takes one vector-Jacobian product for each component (13.9);
            ``"hutchinson"`` one in all, with random noise e, whose mean is the trace:

                tr(df/dz) = E[e^T (df/dz) e],    E[e e^T] = I                          (13.10)

        noise: what e is drawn from: ``"rademacher"``, signs, whose variance is never the larger
            one, or ``"gaussian"``. It is drawn once for each sample and solve, and stays the same
            in all evaluations of f, forward and backward.
        seed: a whole number, to draw the same noise and samples in every run; None for others.

    Returns:
        log p(x), ``[batch]``, in the precision of the layer's variables.

    Raises:
        ValueError, TypeError: an argument is wrong; the message names it.
        RuntimeError: as ``odeint``, where adaptive steps do not arrive.

    A density is exact only as far as its solve: with coarse steps it does not integrate to 1.
    Source: Chen et al., Neural Ordinary Differential Equations (2018), arXiv 1806.07366, section 4;
    Grathwohl et al., FFJORD (2019), arXiv 1810.01367; Hutchinson, Commun. Stat. Simul. 19 (1990),
    doi 10.1080/03610919008812866. Chapter 13.
    """

    def __init__(
        self,
        ode: NeuralODE,
        dim: int,
        *,
        trace: Literal["exact", "hutchinson"] = "exact",
        noise: Literal["rademacher", "gaussian"] = "rademacher",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(ode, NeuralODE):
            raise TypeError(f"ode is {ode!r}: it must be a NeuralODE, as NeuralODE(dynamics)")
        super().__init__(autocast=False, **{"dtype": ode.dtype_policy, **kwargs})
        self.ode = ode
        self.dim = checks._whole(dim, "dim")
        self.trace = checks._choice(trace, TRACES, "trace")
        self.noise = checks._choice(noise, NOISES, "noise")
        self.seed = seed
        self._seeds = keras.random.SeedGenerator(seed)
        self._compiled_solve = tf.function(self._solve, reduce_retracing=True)

    def build(self, x_shape: Any = None) -> None:
        """Create the variables of the dynamics. Keras calls it."""
        if not self.ode.built:
            self.ode.build((None, self.dim))

    def call(self, x: Any, seed: Any = None) -> tf.Tensor:
        """log p(x), ``[batch]``: the same as ``log_prob``."""
        x = self._points(x, "x")
        noise = None if self.trace == "exact" else self._draw(tf.shape(x), self._seed(seed))
        z0, change = self._carry((x, tf.zeros_like(x[:, :1])), noise, backward=True)
        return self._log_normal(z0) - change[:, 0]

    def log_prob(self, x: Any, seed: Any = None) -> tf.Tensor:
        """The logarithm of the density at x, from one solve backward in time.

        Args:
            x: points, ``[batch, dim]``.
            seed: a whole number for the noise of this call; the layer's own sequence without it.

        Returns:
            log p(x), ``[batch]``. With ``trace="hutchinson"`` its mean over noises, not each
            value, is right, up to the solver's error.
        """
        return self(x, seed=seed)

    def sample(self, n: int, seed: Any = None, return_log_prob: bool = False) -> Any:
        """Draw from the density: normal samples, carried from t0 to t0 + dt.

        Args:
            n: how many.
            seed: a whole number for this call; the layer's own sequence without it.
            return_log_prob: also return log p of each sample, from the same solve.

        Returns:
            x, ``[n, dim]``; with ``return_log_prob`` the pair of x and log p(x), ``[n]``.
        """
        seed, shape = self._seed(seed), [checks._whole(n, "n"), self.dim]
        z0 = self._normal(shape, seed)
        if not return_log_prob:
            return self.forward(z0)
        self._build_once()
        noise = None if self.trace == "exact" else self._draw(shape, seed + [0, 1])
        x, log_p = self._carry((z0, self._log_normal(z0)[:, None]), noise)
        return x, log_p[:, 0]

    def forward(self, z0: Any) -> tf.Tensor:
        """Where points z0 of the normal density arrive: x = z(t0 + dt), ``[batch, dim]``."""
        self._build_once()
        return self._carry((self._points(z0, "z0"),))[0]

    def inverse(self, x: Any) -> tf.Tensor:
        """Where points x come from: z(t0), ``[batch, dim]``."""
        self._build_once()
        return self._carry((self._points(x, "x"),), backward=True)[0]

    def slope_and_trace(self, t: Any, z: Any, noise: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        """f(t, z) and its trace, ``[batch, 1]``: exact, or e^T (df/dz) e for the noise e given."""
        exact = tf.unstack(tf.eye(self.dim, dtype=z.dtype))  # the rows e_i
        directions = exact if noise is None else [noise]
        with tf.GradientTape(persistent=len(directions) > 1) as tape:
            tape.watch(z)
            dz = self.ode._func(t, z)
        trace = tf.zeros_like(z[:, :1])
        for e in directions:
            e = tf.broadcast_to(e, tf.shape(z))
            row = tape.gradient(dz, z, e, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            trace += tf.reduce_sum(row * e, axis=1, keepdims=True)  # (13.9), (13.10)
        return dz, trace

    def _carry(self, state: Any, noise: Any = None, backward: bool = False) -> Any:
        """(z,) or (z, log p) at the other end of the time span."""
        t0, dt = self.ode._time(self.ode.t0), self.ode._time(self.ode.dt)
        start, span = (t0 + dt, -dt) if backward else (t0, dt)
        solve = self._compiled_solve if tf.executing_eagerly() else self._solve
        return solve(state, start, span, noise, solver=self.ode.solver, **self.ode._settings())

    def _solve(self, state: Any, t0: Any, dt: Any, noise: Any, **settings: Any) -> Any:
        def augmented(t: tf.Tensor, state: Any) -> Any:  # (13.7)
            if len(state) == 1:
                return (self.ode._func(t, *state),)
            dz, trace = self.slope_and_trace(t, state[0], noise)
            return dz, -trace

        return solve_span(augmented, state, t0, dt, False, **settings)

    def _points(self, x: Any, name: str) -> tf.Tensor:
        """x in the layer's precision, if it is a batch of floating-point points."""
        x = checks._tensor(x, name)
        if not x.dtype.is_floating:
            raise TypeError(f"{name} has dtype {x.dtype.name}: it must be floating point")
        if not x.shape.is_compatible_with([None, self.dim]):
            raise ValueError(f"{name} has shape {x.shape}: it must have shape [batch, {self.dim}]")
        return tf.cast(tf.ensure_shape(x, [None, self.dim]), self.variable_dtype)

    def _log_normal(self, z: tf.Tensor) -> tf.Tensor:
        return -0.5 * (tf.reduce_sum(z**2, axis=1) + self.dim * math.log(2 * math.pi))

    def _seed(self, seed: Any) -> tf.Tensor:
        if seed is None:
            return tf.cast(self._seeds.next(), tf.int32)
        return tf.stack([tf.cast(seed, tf.int32), 0])

    def _draw(self, shape: Any, seed: tf.Tensor) -> tf.Tensor:
        """The noise of one solve."""
        normal = self._normal(shape, seed)
        return normal if self.noise == "gaussian" else 2 * tf.cast(normal < 0, normal.dtype) - 1

    def _normal(self, shape: Any, seed: tf.Tensor) -> tf.Tensor:
        # Left to choose, XLA takes another generator, and the same seed gives other numbers.
        return tf.random.stateless_normal(shape, seed, dtype=self.variable_dtype, alg="philox")

    def _build_once(self) -> None:
        if not self.built:
            self.build((None, self.dim))

    def compute_output_spec(self, x: Any, seed: Any = None) -> keras.KerasTensor:
        """Shape and dtype of log p(x). Keras calls it for functional models."""
        return keras.KerasTensor(x.shape[:1], dtype=self.variable_dtype)

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` makes the layer of again, as plain data."""
        config = super().get_config()
        config.pop("autocast", None)
        ode = keras.saving.serialize_keras_object(self.ode)
        own = {name: getattr(self, name) for name in ("dim", "trace", "noise", "seed")}
        return {**config, "ode": ode, **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ContinuousFlow:
        """The layer that ``get_config`` described, untrained."""
        return cls(**{**config, "ode": keras.saving.deserialize_keras_object(config["ode"])})
