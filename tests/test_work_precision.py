"""The adaptive solvers on DETEST: what they promise, and what it costs beside SciPy's."""

import numpy as np
import pytest
import tensorflow as tf
from bookfiles import BOOK
from problems import PROBLEMS, closed_form, finest
from scipy.integrate import solve_ivp
from work_precision import PEERS, SOLVERS, TOLERANCES, cost, mean, ours, solve, table

from node_lib import odeint

every_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
every_solver = pytest.mark.parametrize("solver", SOLVERS)


@every_problem
def test_references_are_right(problem):
    """They agree with another way to the solution, to a tenth of the finest tolerance."""
    other = closed_form(problem) if problem.exact else finest(problem, "RK45", 3e-13)
    np.testing.assert_allclose(finest(problem), other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tolerance", TOLERANCES)
@every_solver
def test_errors_are_within_50_times_the_tolerance(solver, tolerance):
    ratios = {p.name: ours(p, solver, tolerance).error / tolerance for p in PROBLEMS}
    wrong = {name: ratio for name, ratio in ratios.items() if not ratio <= 50}
    assert not wrong, f"error / tolerance: {wrong}"


@pytest.mark.parametrize("solver", PEERS)
def test_no_more_evaluations_than_scipy_at_equal_error(solver):
    """At most 1.3 times as many on any problem, and over all of them no more."""
    costs = {problem.name: cost(problem, solver) for problem in PROBLEMS}
    narrow = {name: decades for name, (_, decades) in costs.items() if decades < 3}
    assert not narrow, f"decades of error to compare over: {narrow}"
    ratios = {name: ratio for name, (ratio, _) in costs.items()}
    wrong = {name: ratio for name, ratio in ratios.items() if not ratio <= 1.3}
    assert not wrong, f"evaluations / SciPy's: {wrong}"
    assert mean(ratios.values()) <= 1.0


def test_the_table_of_the_api_page_is_what_is_measured():
    """``PYTHONPATH=. python tests/work_precision.py > book/work-precision.md`` writes it again.

    Another processor rounds otherwise, so the last digits are free.
    """
    stored = (BOOK / "work-precision.md").read_text(encoding="utf-8")
    old, new = ([line.split(" | ") for line in text.splitlines()] for text in (stored, table()))
    assert len(new) == 2 + 5 * len(SOLVERS) * len(TOLERANCES)
    assert old[:2] == new[:2]
    assert [row[:3] for row in old] == [row[:3] for row in new]
    values = [
        np.array([[float(cell.strip(" |") or "nan") for cell in row[3:]] for row in rows[2:]])
        for rows in (old, new)
    ]
    for column, rtol in enumerate([0.15, 0.02, 0.15, 0.02, 0.05]):
        np.testing.assert_allclose(values[0][:, column], values[1][:, column], rtol=rtol)


@every_solver
def test_requested_times_do_not_change_the_steps(solver):
    for problem in (p for p in PROBLEMS if p.name in ("B1", "D5")):
        few, few_stats = solve(problem, solver, 1e-6, times=2)
        many, many_stats = solve(problem, solver, 1e-6, times=201)
        assert [int(n) for n in few_stats] == [int(n) for n in many_stats]
        assert int(few_stats.accepted) < 100
        np.testing.assert_array_equal(few[-1], many[-1])


@pytest.mark.parametrize(
    "solver, order, sizes",
    [("dopri5", 4, (0.02, 0.1)), ("tsit5", 4, (0.02, 0.1)), ("dopri8", 7, (0.08, 0.25))],
)
def test_dense_output_converges_with_its_order(solver, order, sizes):
    """One step of size h: the error inside it is O(h^(order + 1)) at every θ."""

    def rate(xp, t, z):
        return xp.stack([2 * z[0] * (1 - z[1]) + xp.sin(3 * t), z[1] * (z[0] - 1) - 0.2 * t])

    z0, thetas, steps = np.array([1.5, 1.2]), np.linspace(0.1, 0.9, 9), np.geomspace(*sizes, 6)
    errors = []
    for h in steps:
        t = np.concatenate([[0.0], thetas * h, [h]])
        # So loose a tolerance that the first step is the whole span.
        z, stats = odeint(
            lambda t, z: rate(tf, t, z),
            z0,
            t,
            solver=solver,
            rtol=1e4 * h,
            atol=1e4 * h,
            gradient="backprop",
            return_stats=True,
        )
        assert (int(stats.accepted), int(stats.rejected)) == (1, 0)
        right = solve_ivp(
            lambda t, z: rate(np, t, z),
            (0.0, h),
            z0,
            method="DOP853",
            t_eval=t,
            rtol=1e-13,
            atol=1e-15,
            max_step=h / 20,
        ).y.T
        errors.append(np.abs(z - right).max(axis=1)[1:-1])
    slopes = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert np.all(slopes >= order + 1 - 0.3), slopes
