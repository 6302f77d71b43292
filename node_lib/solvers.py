"""Explicit Runge-Kutta methods: the tableau of each, and one step of it (Chapter 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import tensorflow as tf

from . import dop853
from .dop853 import Row, Rows, fractions, rows

# A tensor, or any tf.nest structure of tensors: a tuple, list or dict, also nested.
Structure: TypeAlias = Any
# func(t, z) returns dz/dt with the structure, shapes and dtype of z.
Func = Callable[[tf.Tensor, Structure], Structure]
# step(func, t, h, z) returns z at t + h.
Step = Callable[[Func, tf.Tensor, tf.Tensor, Structure], Structure]


def align(x: Any, z: tf.Tensor) -> Any:
    """Give x, one number or one a sample, as many axes as z, so that x * z pairs the samples.

    Shapes are aligned at the first axis: [batch, 1] against [batch, a, b] becomes
    [batch, 1, 1], and against [batch] it becomes [batch]. A scalar is returned as it is.
    """
    rank = len(getattr(x, "shape", ()))
    if rank == 0 or rank == len(z.shape):
        return x
    if rank < len(z.shape):
        return tf.reshape(x, tf.concat([tf.shape(x), [1] * (len(z.shape) - rank)], axis=0))
    return tf.reshape(x, tf.shape(x)[: len(z.shape)])


def advance(
    z: Structure, h: Any, weights: Sequence[Fraction], slopes: Sequence[Structure]
) -> Structure:
    """z + h sum_j w_j k_j on each tensor of the structure (3.8); a weight of zero costs nothing."""
    used = [(float(w), k) for w, k in zip(weights, slopes, strict=True) if w]
    if not used:
        return z

    def on_leaf(z: tf.Tensor, *ks: tf.Tensor) -> tf.Tensor:
        mean = sum(w * k for (w, _), k in zip(used[1:], ks[1:], strict=True)) + used[0][0] * ks[0]
        return z + align(h, z) * mean

    return tf.nest.map_structure(on_leaf, z, *[k for _, k in used])


def further_stages(
    func: Func, t: Any, h: Any, z: Structure, ks: Sequence[Structure], a: Rows, c: Row
) -> list[Structure]:
    """The slopes ks and, after them, one for each row of a and node of c (3.8)."""
    slopes = list(ks)
    for row, node in zip(a, c, strict=True):
        slopes.append(func(t + float(node) * h, advance(z, h, row, slopes)))
    return slopes


@dataclass(frozen=True)
class RungeKutta:
    """An explicit Runge-Kutta method, and one step of it.

        k_i = f(t + c_i h, z + h sum_j a_ij k_j),    z_next = z + h sum_i b_i k_i    (3.8)

    Calling it takes one step, ``z_next = rk4(func, t, h, z)``. ``func(t, z)`` returns dz/dt
    with the structure of z, which is a tensor or any ``tf.nest`` structure of tensors. ``t``
    and ``h`` are in the same unit of time, each a scalar or one a sample, ``[batch, 1]``.

    Args:
        name: the name under which ``odeint`` knows the method.
        order: the power p in |error after one unit of time| = O(h^p).
        a: the stage coefficients, row i holding a_i1 to a_i,i-1. The first row is empty.
        b: the weights of the stages in the step.
        c: the nodes: the time of each stage as a part of the step.
        b_error: b minus the weights of the embedded method, so that h sum_i b_error_i k_i
            estimates the error of the step; None for a method without an estimate.
        b_error_low: the same of a second embedded method of lower order, or None. Only dopri8
            has one: its controller mixes both (see ``error_order``).
        dense: row i holds the coefficients of θ, θ^2, ... in the polynomial b_i(θ) of the dense
            output, or None for a method without one:

                z(t + θ h) = z + h sum_i b_i(θ) k_i,    0 <= θ <= 1,    b_i(1) = b_i

            Its local error is O(h^(q + 1)), where q is the number of coefficients in a row.
        dense_a, dense_c: rows and nodes of further stages, which only the dense output needs:
            ``dense`` has a row for each of them too, after those of the step's own stages.

    Raises:
        ValueError: the tableau's rows do not fit together.

    Source: Butcher, Numerical Methods for Ordinary Differential Equations (2016), section 23,
    doi 10.1002/9781119121534; each method's own source stands at its tableau in solvers.py.
    Chapter 3 derives the methods and measures their orders.
    """

    name: str
    order: int
    a: Rows
    b: Row
    c: Row
    b_error: Row | None = None
    b_error_low: Row | None = None
    dense: Rows | None = None
    dense_a: Rows = ()
    dense_c: Row = ()

    def __post_init__(self) -> None:
        def lengths(rows: Rows) -> Any:
            return [len(row) for row in rows]

        stages, every = len(self.b), len(self.b) + len(self.dense_a)
        parts: list[tuple[str, Any, Any]] = [
            ("rows a of lengths {}", lengths(self.a), [*range(stages)]),
            ("{} nodes c", len(self.c), stages),
            ("rows dense_a of lengths {}", lengths(self.dense_a), [*range(stages, every)]),
            ("{} nodes dense_c", len(self.dense_c), len(self.dense_a)),
        ]
        for weights in (self.b_error, self.b_error_low):
            if weights is not None:
                parts.append(("{} error weights", len(weights), stages))
        if self.dense is not None:
            found = lengths(self.dense)
            parts.append(("rows dense of lengths {}", found, (found[:1] or [1]) * every))
        for part, found, needed in parts:
            if found != needed:
                raise ValueError(
                    f"the tableau of {self.name!r} has {part.format(found)}: beside {stages} "
                    f"weights b it must have {part.format(needed)}"
                )

    @property
    def fsal(self) -> bool:
        """First same as last. The last slope is f at the end of the step, (t + h, z_next).

        So it is the first slope of the next step, and costs nothing if that step is taken.
        """
        return self.c[-1] == 1 and self.b[-1] == 0 and self.a[-1] == self.b[:-1]

    @property
    def error_order(self) -> int | None:
        """The power q in |error estimate of one step| = O(h^(q + 1)), or None without one.

        A step-size controller takes the (q + 1)-th root of it. A pair that steps with the higher
        of two neighbouring orders, as bosh3, dopri5 and tsit5 do, has q = order - 1: that of its
        embedded method. The two estimates e5 and e3 of dopri8 are O(h^6) and O(h^4), and Hairer's
        mixture of them, |e5|^2 / sqrt(|e5|^2 + 0.01 |e3|^2), is O(h^8): q = 7 again.
        """
        return None if self.b_error is None else self.order - 1

    def stages(
        self, func: Func, t: Any, h: Any, z: Structure, count: int | None = None
    ) -> list[Structure]:
        """The slopes k_1 to k_s of one step (3.8).

        Args:
            func: ``func(t, z)`` returns dz/dt with z's structure.
            t, h: the time and the step, in one unit; scalars or one a sample, ``[batch, 1]``.
            z: the state at t.
            count: how many slopes, from the first; all without it.

        Returns:
            A list of slopes, each with the structure and shapes of z, in its unit over time's.
        """
        z = tf.nest.map_structure(tf.convert_to_tensor, z)
        # A bare number would become float32 inside func, whatever the state is.
        dtype = tf.nest.flatten(z)[0].dtype
        t, h = tf.convert_to_tensor(t, dtype), tf.convert_to_tensor(h, dtype)
        return further_stages(func, t, h, z, [], self.a[:count], self.c[:count])

    def __call__(self, func: Func, t: Any, h: Any, z: Structure) -> Structure:
        """z at t + h, by one step from z at t (3.8): arguments as those of ``stages``."""
        # The last slope of a method that is FSAL has no weight: one step alone does not need it.
        count = max((i for i, weight in enumerate(self.b, start=1) if weight), default=0)
        return advance(z, h, self.b[:count], self.stages(func, t, h, z, count))


def _tableau(
    name: str,
    order: int,
    a: str,
    c: str,
    b: str | None = None,
    embedded: str | None = None,
    dense: str | None = None,
) -> RungeKutta:
    """A method from its tableau as it is printed in books: rows split by '|'.

    Without b the method is FSAL, and b is the last row of a with a zero. ``embedded`` holds the
    weights of the embedded method.
    """
    weights = fractions(b) if b else (*rows(a)[-1], Fraction(0))
    b_error = None
    if embedded:
        b_error = tuple(x - y for x, y in zip(weights, fractions(embedded), strict=True))
    polynomials = rows(dense) if dense else None
    return RungeKutta(name, order, rows(a), weights, fractions(c), b_error, dense=polynomials)


# Euler, Institutionum calculi integralis I (1768); the update of a residual block (Chapter 1).
euler = _tableau("euler", order=1, a="", b="1", c="0")

# Runge, Ueber die numerische Auflösung von Differentialgleichungen, Math. Ann. 46 (1895).
midpoint = _tableau("midpoint", order=2, a="| 1/2", b="0 1", c="0 1/2")

# Heun, Neue Methoden zur approximativen Integration, Z. Math. Phys. 45 (1900): the trapezium
# rule with an Euler step for its unknown end.
heun = _tableau("heun", order=2, a="| 1", b="1/2 1/2", c="0 1")

# Kutta, Beitrag zur näherungsweisen Integration, Z. Math. Phys. 46 (1901): the classical method.
rk4 = _tableau("rk4", order=4, a="| 1/2 | 0 1/2 | 0 0 1", b="1/6 1/3 1/3 1/6", c="0 1/2 1/2 1")

# Bogacki and Shampine, A 3(2) pair of Runge-Kutta formulas, Appl. Math. Lett. 2 (1989). Dense
# output: the cubic through the values and slopes at both ends (Hermite), of order 3.
bosh3 = _tableau(
    "bosh3",
    order=3,
    a="| 1/2 | 0 3/4 | 2/9 1/3 4/9",
    c="0 1/2 3/4 1",
    embedded="7/24 1/4 1/3 1/8",
    dense="1 -4/3 5/9 | 0 1 -2/3 | 0 4/3 -8/9 | 0 -1 1",
)

# Dormand and Prince, A family of embedded Runge-Kutta formulae, J. Comput. Appl. Math. 6 (1980):
# the method RK5(4)7M with its own embedded method, as in Hairer, Norsett and Wanner (1993),
# section II.5, MATLAB's ode45 and SciPy's RK45. Some libraries have Shampine's embedded weights
# (1951/21600 0 22642/50085 451/720 -12231/42400 649/6300 1/60) in their dopri5 instead. That
# estimate is exactly two thirds of this one, stage by stage: it is not a better one, it only acts
# as a tolerance 3/2 as large would, with steps longer by (3/2)^(1/5), which is 8 %.
#
# Dense output of order 4: Shampine, Some practical Runge-Kutta formulas, Math. Comp. 46 (1986);
# Hairer, Norsett and Wanner, section II.6; multiplied out as in SciPy's RK45.
dopri5 = _tableau(
    "dopri5",
    order=5,
    a="""
        | 1/5
        | 3/40 9/40
        | 44/45 -56/15 32/9
        | 19372/6561 -25360/2187 64448/6561 -212/729
        | 9017/3168 -355/33 46732/5247 49/176 -5103/18656
        | 35/384 0 500/1113 125/192 -2187/6784 11/84
    """,
    c="0 1/5 3/10 4/5 8/9 1 1",
    embedded="5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40",
    dense="""
          1 -8048581381/2820520608 8663915743/2820520608 -12715105075/11282082432
        | 0 0 0 0
        | 0 131558114200/32700410799 -68118460800/10900136933 87487479700/32700410799
        | 0 -1754552775/470086768 14199869525/1410260304 -10690763975/1880347072
        | 0 127303824393/49829197408 -318862633887/49829197408 701980252875/199316789632
        | 0 -282668133/205662961 2019193451/616988883 -1453857185/822651844
        | 0 40617522/29380423 -110615467/29380423 69997945/29380423
    """,
)

# Tsitouras, Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying
# assumption, Comput. Math. Appl. 62 (2011). Copies of the paper's numbers have 16 digits; these
# are the 85 of DiffEqDevTools.jl, which Julia's Tsit5 and Diffrax use, rounded to 30, so that the
# order conditions hold to 1e-27. What the paper calls b-hat is b_error, and codes that took it
# from there note a wrong sign: its last entry must be -1/66, as here, for the sum to be zero.
#
# Dense output of order 4. The paper gives the factors of the b_i(θ) to about 17 digits. Its
# b_2(θ) and b_7(θ) are the exact decimals below, and the conditions of order 4 leave one solution
# for the other five: it agrees with the paper's to 1e-16, and is printed here with 30 digits.
tsit5 = _tableau(
    "tsit5",
    order=5,
    a="""
        | 161/1000
        | -0.00848065549235698854442687425023 0.335480655492356988544426874250
        | 2.89715305710549343213043259419 -6.35944848997507484314815991238
          4.36229543286958141101772731819
        | 5.32586482843925660442887792084 -11.7488835640628278777471703398
          7.49553934288983620830460478456 -0.0924950663617552492565020793321
        | 5.86145544294642002865925148698 -12.9209693178471092917061186818
          8.15936789857615864318040079454 -0.0715849732814009972245305425258
          -0.0282690503940683829090030572127
        | 0.0964607668180652295181673131651 1/100 0.479889650414499574775249532291
          1.37900857410374189319227482186 -3.29006951543608067990104758571
          2.32471052409977398241535591840
    """,
    c="""
          0 161/1000 327/1000 9/10 0.980025540904509685729810286287 1 1
    """,
    embedded="""
          0.0946807557658394580747887625576 0.00918356554034325309677636393665
          0.487770528424761570785564259963 1.23429756693047898565510967388
          -2.70771234998352545488110997506 1.86662841817058703575371939957 1/66
    """,
    dense="""
          1 -2.76370619727482586867298836303 2.91325546182191265541864597872
          -1.05308849772902155722749030252
        | 0 0.1317 -0.2234 0.1017
        | 0 3.93029623689475151740929366946 -5.94103387213150473571758920976
          2.49062728565125279308354507259
        | 0 -12.4110771669336770387304733967 30.3381886302823216502300460809
          -16.5481028892449027183072978623
        | 0 37.5093134165110391789784391111 -88.1789048947664010775610685650
          47.3795219628192812186815818682
        | 0 -27.8965262891972877889842710208 65.0918946747936715076299657152
          -34.8706578614966097362303387760
        | 0 1.5 -4 2.5
    """,
)

# Hairer's DOP853: order 8, errors estimated with orders 5 and 3, dense output of order 7. The
# dopri8 of torchdiffeq and Diffrax is another method, of 13 stages: RK8(7)13M of Prince and
# Dormand, High order embedded Runge-Kutta formulae, J. Comput. Appl. Math. 7 (1981).
dopri8 = RungeKutta(
    "dopri8",
    order=8,
    a=dop853.A,
    b=dop853.B,
    c=dop853.C,
    b_error=dop853.ERROR_5,
    b_error_low=dop853.ERROR_3,
    dense=dop853.DENSE,
    dense_a=dop853.DENSE_A,
    dense_c=dop853.DENSE_C,
)

SOLVERS = {
    method.name: method for method in (euler, midpoint, heun, rk4, bosh3, dopri5, tsit5, dopri8)
}
