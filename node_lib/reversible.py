"""The reversible scheme: the exact gradient in constant memory, on the fixed grid (Chapter 7).

Two copies y and z of the state step over each other, so that a step can be undone in exact
arithmetic and nothing need be kept for the way back:

    y_n+1 = c y_n + (1 - c) z_n + Psi(h, t_n, z_n),     z_n+1 = z_n - Psi(-h, t_n+1, y_n+1)

with y_0 = z_0 and Psi(h, t, z) the change of z over one step of any explicit method. The solution
is y. It has the order of that method.

What decays at a rate r under dz/dt = f grows at that rate in the difference of y and z, unless
h r < 1 - c, about: with c = 0.999 that takes steps too small to be of use. So where r times the
span is large, as in stiff problems, the solution is wrong (Chapter 8).

Source: McCallum & Foster, Efficient, Accurate and Stable Gradients for Neural ODEs (2024), arXiv
2410.11648.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from .fixed_grid import FixedGrid, Rows, States, count, repeat, write
from .tape import add, vjp, zeros_like

# Near 1: undoing n steps enlarges rounding errors by c^-n, and less than 1 damps y - z.
COUPLING = 0.999


def states(grid: FixedGrid, z0: States, t: tf.Tensor) -> tuple[States, States]:
    """y and z at the times t, each [T, ...]. Each interval begins with z = y."""
    intervals = count(t) - 1
    rows = write([Rows(intervals + 1, x) for x in [*z0, *z0]], 0, [*z0, *z0])

    def interval(i: tf.Tensor, state: Any) -> Any:
        y, rows = state
        t0, dt = t[i], t[i + 1] - t[i]
        y, z = repeat(grid.steps, lambda n, pair: step(grid, t0, dt, n, *pair), (y, y))
        return y, write(rows, i + 1, [*y, *z])

    _, rows = repeat(intervals, interval, (z0, rows))
    pair = [row.stack() for row in rows]
    return pair[: len(z0)], pair[len(z0) :]


def step(grid: FixedGrid, t0: Any, dt: Any, n: Any, y: States, z: States) -> tuple[States, States]:
    """One step of the pair, forward."""
    ahead, c = change(grid, t0, dt, n, z, 1), COUPLING
    y = [c * u + (1 - c) * v + d for u, v, d in zip(y, z, ahead, strict=True)]
    back = change(grid, t0, dt, n + 1, y, -1)
    return y, [v - d for v, d in zip(z, back, strict=True)]


def change(grid: FixedGrid, t0: Any, dt: Any, n: Any, z: States, direction: int) -> States:
    """Psi: the change of z over one step from time n of the grid, forward (1) or backward (-1)."""
    z1 = grid.advance(t0, dt, n, z, direction)
    return [y - x for x, y in zip(z, z1, strict=True)]


def interval_backward(
    grid: FixedGrid,
    kept: States,
    read: list[Any],
    i: Any,
    t0: Any,
    dt: Any,
    a: States,
    grads: States,
) -> tuple[States, States, States]:
    """Undo every step of interval i and differentiate it; a and b belong to y and z.

    Each change Psi is evaluated once: its value undoes the step, and its vector-Jacobian product
    carries the cotangents.
    """
    size, c = len(a), COUPLING

    def one_step(j: tf.Tensor, state: Any) -> Any:
        y, z, a, b, gs = state
        n = grid.steps - 1 - j
        times = [t0, dt, *read]
        back, more = vjp(lambda: change(grid, t0, dt, n + 1, y, -1), [*y, *times], [-x for x in b])
        z, a, gs = add(z, back), add(a, more[:size]), add(gs, more[size:])
        ahead, more = vjp(lambda: change(grid, t0, dt, n, z, 1), [*z, *times], a)
        y = [(u - (1 - c) * v - d) / c for u, v, d in zip(y, z, ahead, strict=True)]
        b = [q + (1 - c) * p + g for q, p, g in zip(b, a, more[:size], strict=True)]
        return y, z, [c * p for p in a], b, add(gs, more[size:])

    y, z = ([x[i + 1] for x in half] for half in (kept[:size], kept[size:]))
    start = [*zeros_like([t0, dt], a[0].dtype), *grads]
    none = [tf.zeros_like(x) for x in a]
    _, _, a, b, gs = repeat(grid.steps, one_step, (y, z, a, none, start))
    return add(a, b), gs[:2], gs[2:]
