"""Neural ODEs in TensorFlow: ODE solvers, gradients through them and a Keras layer."""

from .flow import ContinuousFlow
from .gradient_check import check_gradients
from .gradients import GRADIENTS
from .integrate import Stats, odeint
from .layer import Autonomous, ConcatTime, NeuralODE, get_neural_ode_layer
from .solvers import (
    SOLVERS,
    RungeKutta,
    bosh3,
    dopri5,
    dopri8,
    euler,
    heun,
    midpoint,
    rk4,
    tsit5,
)

__version__ = "0.1.0"

__all__ = [
    "GRADIENTS",
    "SOLVERS",
    "Autonomous",
    "ConcatTime",
    "ContinuousFlow",
    "NeuralODE",
    "RungeKutta",
    "Stats",
    "bosh3",
    "check_gradients",
    "dopri5",
    "dopri8",
    "euler",
    "get_neural_ode_layer",
    "heun",
    "midpoint",
    "odeint",
    "rk4",
    "tsit5",
]
