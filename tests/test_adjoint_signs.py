"""The signs of Chapter 5: in closed form, and the same on the notation page, in code and in words.

dz/dt = (1 + t) A z has the solution z(t1) = e^(A G) z0, with G the integral of 1 + t: a vector, so
that a forgotten transpose shows, and a func that depends on time, so that df/dt shows.
"""

import numpy as np
import pytest
import tensorflow as tf
from bookfiles import BOOK, read
from scipy.linalg import expm, expm_frechet

from node_lib import adaptive_gradients, fixed_grid, gradients, odeint

A = np.array([[-0.3, 1.2], [-0.9, 0.1]])
Z0 = np.array([[1.0, 0.5], [-0.4, 2.0], [0.7, 0.7]])
WEIGHTS = np.random.default_rng(1).normal(size=(4, 3, 2))  # of the state of each time and sample
SHARED = np.array([0.3, 0.5, 1.1, 1.2])
OWN = SHARED[:, None, None] * np.array([[1.0], [0.6], [-0.8]])  # each sample its own, one backward
FIXED = {"solver": "rk4", "steps": 40}
ADAPTIVE = {"solver": "dopri8", "rtol": 1e-9, "atol": 1e-10, "max_steps": 60}
WAYS = {
    **{f"fixed {mode}": {**FIXED, "gradient": mode} for mode in gradients.GRADIENTS},
    **{f"adaptive {mode}": {**ADAPTIVE, "gradient": mode} for mode in ("checkpoint", "adjoint")},
    "per sample checkpoint": {**ADAPTIVE, "gradient": "checkpoint", "per_sample": True},
    "per sample adjoint": {**ADAPTIVE, "gradient": "adjoint", "per_sample": True},
}


def by_hand(times):
    """Gradients of sum(WEIGHTS * z) for times [T, batch]: of z0, of each time, of A."""
    g_z0, g_t, g_A = np.zeros_like(Z0), np.zeros_like(times), np.zeros((2, 2))
    for i, (row, weights) in enumerate(zip(times, WEIGHTS, strict=True)):
        for n, (t, w) in enumerate(zip(row, weights, strict=True)):
            start = times[0, n]
            G = t - start + (t**2 - start**2) / 2
            z = expm(A * G) @ Z0[n]
            g_z0[n] += expm(A * G).T @ w
            # <w, L(A G, E G) z0> = <G L(A^T G, w z0^T), E> for the Frechet derivative L
            g_A += G * expm_frechet(A.T * G, np.outer(w, Z0[n]), compute_expm=False)
            if i:  # the state at the first time is z0, wherever that is
                g_t[i, n] += w @ A @ z * (1 + t)  # (5.11)
                g_t[0, n] -= w @ A @ z * (1 + start)  # (5.12): A commutes with its exponential
    return g_z0, g_t, g_A


@pytest.mark.parametrize(
    ("way", "times"),
    [*((way, "own") for way in WAYS), ("fixed adjoint", "shared"), ("adaptive adjoint", "shared")],
)
def test_every_gradient_with_jumps_equals_its_closed_form(way, times):
    times = OWN if times == "own" else SHARED
    matrix = tf.Variable(A)

    @tf.function
    def solve(z0, t):
        with tf.GradientTape() as tape:
            tape.watch([z0, t])

            def func(t, z):
                return (1 + t) * tf.matmul(z, matrix, transpose_b=True)

            loss = tf.reduce_sum(WEIGHTS * odeint(func, z0, t, **WAYS[way]))
        return tape.gradient(loss, [z0, t, matrix])

    g_z0, g_t, g_A = solve(tf.constant(Z0), tf.constant(times))
    rows = np.broadcast_to(times.reshape(4, -1), (4, 3))
    z0_exact, t_exact, A_exact = by_hand(rows)
    if times.ndim == 1:
        t_exact = t_exact.sum(axis=1)
    tight = {"rtol": 1e-7, "atol": 1e-7}
    np.testing.assert_allclose(g_z0, z0_exact, **tight)
    np.testing.assert_allclose(np.reshape(g_t, t_exact.shape), t_exact, **tight)
    np.testing.assert_allclose(g_A, A_exact, **tight)


def words(text):
    return " ".join(text.split())


NOTATION = words((BOOK / "notation.md").read_text(encoding="utf-8"))
CHAPTER = words(
    "\n".join(
        cell.source
        for cell in read(BOOK / "05-deriving-the-adjoint.ipynb").cells
        if cell.cell_type == "markdown"
    )
)


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        # the adjoint
        (NOTATION, r"\frac{da^\top}{dt} = -a^\top \frac{\partial f}{\partial z}"),
        (CHAPTER, r"\frac{da^\top}{dt} = -a^\top \frac{\partial f}{\partial z}. \tag{5.5}"),
        (CHAPTER, r"\frac{da^\top}{ds} &= -a^\top \frac{\partial F}{\partial z}"),
        (CHAPTER, r"\frac{da^\top}{d\sigma} &= a^\top \frac{\partial F}{\partial z}"),
        (gradients._adjoint.__doc__, "da/ds = -a^T dF/dz"),
        (adaptive_gradients._adjoint.__doc__, "da/dsigma = a^T dF/dz"),
        # what it collects
        (NOTATION, r"\int_{t_0}^{t_1} a^\top \frac{\partial f}{\partial \theta}\, dt"),
        (CHAPTER, r"\int_{t_0}^{t_1} a^\top \frac{\partial f}{\partial \theta}\, dt"),
        (CHAPTER, r"\frac{dg^\top}{ds} &= -a^\top"),
        (CHAPTER, r"\frac{dg^\top}{d\sigma} &= a^\top"),
        (gradients._adjoint.__doc__, "dg/ds = -a^T dF/d(t0, dt, theta)"),
        (adaptive_gradients._adjoint.__doc__, "dg/dsigma = a^T dF/d(t0, dt, theta)"),
        # the times
        (NOTATION, r"\frac{\partial L}{\partial t_1} = a(t_1)^\top f(t_1, z_1, \theta)"),
        (NOTATION, r"\frac{\partial L}{\partial t_0} = -a(t_0)^\top f(t_0, z_0, \theta)"),
        (CHAPTER, r"\frac{\partial L}{\partial t_1} = a(t_1)^\top f(t_1, z_1, \theta)"),
        (CHAPTER, r"\frac{\partial L}{\partial t_0} = -a(t_0)^\top f(t_0, z_0, \theta)"),
        # the clock
        (CHAPTER, r"F(s, z) &= \Delta t\, f(t_0 + s\, \Delta t"),
        (fixed_grid.rescaled.__doc__, "F(s, z) = dt f(t0 + s dt, z)"),
        # the jumps
        (CHAPTER, r"a(t_i^-) = a(t_i^+) +"),
        (NOTATION, r"a(t_i^-) = a(t_i^+) +"),
    ],
)
def test_the_same_signs_are_written_everywhere(text, formula):
    assert formula in words(text)
