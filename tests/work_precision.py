"""Measure error and evaluations of the adaptive solvers on DETEST, beside SciPy's.

This writes the table of the book's API page again:

PYTHONPATH=. .venv/bin/python tests/work_precision.py > book/work-precision.md
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from problems import PROBLEMS, TIMES, Problem, reference
from scipy.integrate import DOP853, RK45

from node_lib import odeint

PEERS = {"dopri5": RK45, "dopri8": DOP853}
SOLVERS = ("dopri5", "tsit5", "dopri8")
TOLERANCES = (1e-3, 1e-6, 1e-9)
# What curves of evaluations against error are drawn through.
CURVE = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)


class Work(NamedTuple):
    """The largest error at the requested times, the evaluations that it took."""

    error: float
    evaluations: int


# A graph takes about a second to trace and optimize. So one graph solves every problem, and the
# choice of the problem is a function in it, called but not inlined at each stage.
_INDEX, _STATE = tf.TensorSpec([], tf.int32), tf.TensorSpec([None], tf.float64)


@tf.function(
    autograph=False,
    input_signature=[_INDEX, _STATE, tf.TensorSpec([], tf.float64)],
    experimental_attributes={"_noinline": True},
)
def _slope(index, z, t):
    return tf.switch_case(index, [functools.partial(p.func, tf, t, z) for p in PROBLEMS])


@functools.cache
def _program(solver: str, tolerance: float, times: int) -> Callable[..., Any]:
    @tf.function(
        autograph=False, input_signature=[_INDEX, _STATE, tf.TensorSpec([times], tf.float64)]
    )
    def solve(index, z0, t):
        return odeint(
            lambda t, z: _slope(index, z, t),
            z0,
            t,
            solver=solver,
            rtol=tolerance,
            atol=tolerance,
            gradient="backprop",
            max_steps=10_000,
            return_stats=True,
        )

    return solve


def solve(problem: Problem, solver: str, tolerance: float, times: int = TIMES) -> Any:
    """z at so many equidistant times, and the Stats."""
    t = tf.constant(np.linspace(0.0, problem.end, times))
    index, z0 = tf.constant(PROBLEMS.index(problem)), tf.constant(problem.z0, tf.float64)
    return _program(solver, tolerance, times)(index, z0, t)


def error(problem: Problem, z: np.ndarray) -> float:
    """The largest error over times and components, relative to max(1, |z|)."""
    right = reference(problem)
    return float(np.max(np.abs(z - right) / np.maximum(1, np.abs(right))))


@functools.cache
def ours(problem: Problem, solver: str, tolerance: float) -> Work:
    z, stats = solve(problem, solver, tolerance)
    return Work(error(problem, z.numpy()), int(stats.evaluations))


@functools.cache
def scipys(problem: Problem, solver: str, tolerance: float) -> Work:
    """The same by SciPy, the further evaluations of its dense output not counted, as in ours."""
    z0, end = np.array(problem.z0), problem.end
    run = PEERS[solver](problem.numpy, 0.0, z0, end, rtol=tolerance, atol=tolerance)
    rows, evaluations = [z0], run.nfev
    while run.status == "running":
        before = run.nfev
        run.step()
        evaluations += run.nfev - before
        due = problem.times[len(rows) :]
        due = due[due <= run.t]
        if len(due):
            rows.extend(run.dense_output()(due).T)
    return Work(error(problem, np.stack(rows)), evaluations)


def cost(problem: Problem, solver: str) -> tuple[float, float]:
    """Our evaluations over SciPy's at equal error, and over how many decades of it.

    Between the tolerances of CURVE, log(evaluations) is interpolated in log(error), and the
    geometric mean is taken over the errors that both reach. An error that is larger than at
    some looser tolerance counts as that one: it took less work.
    """
    curves = []
    for run in (ours, scipys):
        works = [run(problem, solver, tolerance) for tolerance in CURVE]
        digits = np.maximum.accumulate([-np.log10(work.error) for work in works])
        curves.append((digits, np.log([work.evaluations for work in works])))
    low = max(digits[0] for digits, _ in curves)
    high = min(digits[-1] for digits, _ in curves)
    at = np.linspace(low, high, 101)
    mine, other = (np.interp(at, *curve) for curve in curves)
    return float(np.exp(np.mean(mine - other))), float(high - low)


def mean(ratios: Iterable[float]) -> float:
    """The geometric mean."""
    return float(np.exp(np.mean(np.log(list(ratios)))))


def table() -> str:
    """A line for each class of problems, solver and tolerance, in Markdown."""
    lines = [
        "| problems | solver | tolerance | error / tolerance | evaluations "
        "| SciPy's error / tolerance | SciPy's evaluations | ratio at equal error |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for letter in sorted({problem.name[0] for problem in PROBLEMS}):
        group = [problem for problem in PROBLEMS if problem.name[0] == letter]
        for solver in SOLVERS:
            for tolerance in TOLERANCES:
                cells = [f"{letter}1 to {group[-1].name}", solver, f"{tolerance:.0e}"]
                for run in (ours, scipys) if solver in PEERS else (ours,):
                    works = [run(problem, solver, tolerance) for problem in group]
                    cells.append(f"{max(work.error for work in works) / tolerance:.2g}")
                    cells.append(f"{sum(work.evaluations for work in works)}")
                if solver in PEERS and tolerance == TOLERANCES[-1]:
                    cells.append(f"{mean(cost(problem, solver)[0] for problem in group):.2f}")
                cells += [""] * (8 - len(cells))
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
