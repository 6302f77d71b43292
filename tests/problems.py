"""Initial value problems to measure solvers by: the non-stiff test set DETEST.

Hull, Enright, Fellen & Sedgwick, Comparing numerical methods for ordinary differential equations,
SIAM J. Numer. Anal. 9 (1972); Enright & Pryce, Two FORTRAN packages for assessing initial value
methods, ACM Trans. Math. Softw. 13 (1987). All its problems but C4 (C3 of more equations) and C5.

DETEST's span is [0, 20]. Nine of these are shorter, for a test of errors against tolerances to be
fair: a solver controls the error of each step, and what becomes of it is the problem's doing. Let
the condition be the most that a change of 1 anywhere on the way can become later on. Over [0, 20]
it is at most 35 in the other problems; here it would be 110 (B1), 180 (E2) and, where each orbit
multiplies it, 190 (D1) to 800,000 (D5). B5 and E3 stay below 35, but add up what all steps lose.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.special import ellipj, factorial

TIMES = 21


@dataclass(frozen=True)
class Problem:
    """dz/dt = func(xp, t, z) over [0, end] from z0, with xp either NumPy or TensorFlow.

    exact(t) gives the components of z at an array of times, where there is a closed form.
    """

    name: str
    what: str
    func: Callable[[Any, Any, Any], Any]
    z0: tuple[float, ...]
    end: float = 20.0
    exact: Callable[[np.ndarray], Any] | None = None

    @property
    def times(self) -> np.ndarray:
        return np.linspace(0.0, self.end, TIMES)

    def numpy(self, t: float, z: np.ndarray) -> np.ndarray:
        return self.func(np, t, z)


@functools.cache
def reference(problem: Problem) -> np.ndarray:
    """z at the problem's times, [21, n]: the closed form, or SciPy's DOP853 at its finest."""
    return closed_form(problem) if problem.exact else finest(problem)


def closed_form(problem: Problem) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*problem.exact(problem.times)), axis=-1)


def finest(problem: Problem, method: str = "DOP853", tolerance: float = 1e-13) -> np.ndarray:
    return solve_ivp(
        problem.numpy,
        (0.0, problem.end),
        problem.z0,
        method=method,
        t_eval=problem.times,
        rtol=tolerance,
        atol=tolerance,
    ).y.T


def logistic(xp, t, z):
    return z / 4 * (1 - z / 20)


def spiral(xp, t, z):
    return (z - t) / (z + t)


def predator_prey(xp, t, z):
    return xp.stack([2 * (z[0] - z[0] * z[1]), z[0] * z[1] - z[1]])


def reaction(xp, t, z):
    return xp.stack([-z[0], z[0] - z[1] ** 2, z[1] ** 2])


def torus(xp, t, z):
    r = xp.sqrt(z[0] ** 2 + z[1] ** 2)
    return xp.stack([-z[1] - z[0] * z[2] / r, z[0] - z[1] * z[2] / r, z[0] / r])


def rigid_body(xp, t, z):
    return xp.stack([z[1] * z[2], -z[0] * z[2], -0.51 * z[0] * z[1]])


def linear(matrix: np.ndarray) -> Callable[[Any, Any, Any], Any]:
    return lambda xp, t, z: xp.tensordot(xp.asarray(matrix) if xp is np else matrix, z, 1)


def orbit(xp, t, z):
    cube = (z[0] ** 2 + z[1] ** 2) ** 1.5
    return xp.stack([z[2], z[3], -z[0] / cube, -z[1] / cube])


def bessel(xp, t, z):
    return xp.stack([z[1], -(z[1] / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * z[0])])


def van_der_pol(xp, t, z):
    return xp.stack([z[1], (1 - z[0] ** 2) * z[1] - z[0]])


def duffing(xp, t, z):
    return xp.stack([z[1], z[0] ** 3 / 6 - z[0] + 2 * xp.sin(2.78535 * t)])


def falling(xp, t, z):
    return xp.stack([z[1], 0.032 - 0.4 * z[1] ** 2])


def pursuit(xp, t, z):
    return xp.stack([z[1], xp.sqrt(1 + z[1] ** 2) / (25 - t)])


def chain(rates: np.ndarray) -> np.ndarray:
    """Each substance decays into the next, the last one does not decay."""
    rates = np.append(rates, 0.0)
    return np.diag(rates[:-1], -1) - np.diag(rates)


def poisson(t):
    parts = [np.exp(-t) * t**k / factorial(k) for k in range(9)]
    return [*parts, 1 - sum(parts)]


def yule(t):
    return [*(np.exp(-t) * (1 - np.exp(-t)) ** k for k in range(9)), (1 - np.exp(-t)) ** 9]


def kepler(e: float) -> Callable[[np.ndarray], Any]:
    """The position and velocity on an ellipse, from Kepler's equation u - e sin u = t."""

    def exact(t):
        u = t + e * np.sign(np.sin(t))
        for _ in range(50):
            u = u - (u - e * np.sin(u) - t) / (1 - e * np.cos(u))
        x, y, rate = np.cos(u), np.sin(u), 1 / (1 - e * np.cos(u))
        b = np.sqrt(1 - e**2)
        return [x - e, b * y, -y * rate, b * x * rate]

    return exact


def bessel_exact(t):
    x = t + 1
    size = np.sqrt(2 / (np.pi * x))
    return [size * np.sin(x), size * (np.cos(x) - np.sin(x) / (2 * x))]


def falling_exact(t):
    k = np.sqrt(0.032 * 0.4)
    return [30 + 2.5 * np.log(np.cosh(k * t)), np.sqrt(0.08) * np.tanh(k * t)]


def pursuit_exact(t):
    # asinh z1 = log(25 / (25 - t)), and z0 its integral.
    q = (25 - t) / 25
    return [25 * ((q**2 - 1) / 4 - np.log(q) / 2), (1 / q - q) / 2]


CHEMISTRY = np.array([[-1.0, 1.0, 0.0], [1.0, -2.0, 1.0], [0.0, 1.0, -1.0]])
HEAT = np.eye(10, k=1) - 2 * np.eye(10) + np.eye(10, k=-1)
FIRST = (1.0, *[0.0] * 9)


def flow(matrix: np.ndarray, z0: tuple[float, ...]) -> Callable[[np.ndarray], Any]:
    return lambda t: np.stack([expm(matrix * x) @ z0 for x in t], axis=1)


def orbits(spans: dict[float, float]) -> list[Problem]:
    return [
        Problem(
            f"D{i}",
            f"orbit of eccentricity {e}",
            orbit,
            (1 - e, 0.0, 0.0, float(np.sqrt((1 + e) / (1 - e)))),
            end,
            kepler(e),
        )
        for i, (e, end) in enumerate(spans.items(), start=1)
    ]


# fmt: off
PROBLEMS = (
    Problem("A1", "decay", lambda xp, t, z: -z, (1.0,), exact=lambda t: [np.exp(-t)]),
    Problem("A2", "a special case of the Riccati equation", lambda xp, t, z: -(z**3) / 2, (1.0,),
            exact=lambda t: [1 / np.sqrt(t + 1)]),
    Problem("A3", "an oscillating rate", lambda xp, t, z: z * xp.cos(t), (1.0,),
            exact=lambda t: [np.exp(np.sin(t))]),
    Problem("A4", "logistic growth", logistic, (1.0,),
            exact=lambda t: [20 / (1 + 19 * np.exp(-t / 4))]),
    Problem("A5", "a spiral", spiral, (4.0,)),
    # Up to the prey's second peak, at which the condition is 40.
    Problem("B1", "predator and prey", predator_prey, (1.0, 3.0), 4.5),
    Problem("B2", "a linear reaction", linear(CHEMISTRY), (2.0, 0.0, 1.0),
            exact=flow(CHEMISTRY, (2.0, 0.0, 1.0))),
    Problem("B3", "a nonlinear reaction", reaction, (1.0, 0.0, 0.0)),
    Problem("B4", "a curve on a torus", torus, (3.0, 0.0, 0.0)),
    # The error grows with the time.
    Problem("B5", "a rigid body turning freely", rigid_body, (0.0, 1.0, 1.0), 14.0,
            exact=lambda t: ellipj(t, 0.51)[:3]),
    Problem("C1", "radioactive decay, equal rates", linear(chain(np.ones(9))), FIRST,
            exact=poisson),
    Problem("C2", "radioactive decay, growing rates", linear(chain(np.arange(1.0, 10.0))), FIRST,
            exact=yule),
    Problem("C3", "the heat equation on ten points", linear(HEAT), FIRST,
            exact=flow(HEAT, FIRST)),
    # Two thirds of one orbit, for the condition grows with each: from 25 (D1) to 700 (D5).
    *orbits({0.1: 4.0, 0.3: 4.0, 0.5: 4.0, 0.7: 4.0, 0.9: 4.0}),
    Problem("E1", "Bessel's equation of order 1/2", bessel,
            (float(bessel_exact(0.0)[0]), float(bessel_exact(0.0)[1])), exact=bessel_exact),
    # The first of its jumps: each multiplies the condition.
    Problem("E2", "Van der Pol's oscillator", van_der_pol, (2.0, 0.0), 5.0),
    # The error grows with the time, as in B5.
    Problem("E3", "Duffing's oscillator, forced", duffing, (0.0, 0.0), 12.0),
    Problem("E4", "a fall through air", falling, (30.0, 0.0), exact=falling_exact),
    Problem("E5", "linear pursuit", pursuit, (0.0, 0.0), exact=pursuit_exact),
)
# fmt: on
