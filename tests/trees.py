"""Order conditions of Runge-Kutta methods, one for each rooted tree, in exact fractions.

A method has order p if sum_i b_i Phi_i(tree) = 1 / gamma(tree) for every rooted tree of at most
p nodes (Butcher 2016, section 31; Hairer, Norsett & Wanner 1993, section II.2). A dense output
has order q if sum_i b_i(theta) Phi_i(tree) = theta^|tree| / gamma(tree) for every tree of at most
q nodes (Hairer, Norsett & Wanner 1993, section II.6).
"""

from fractions import Fraction
from functools import lru_cache


@lru_cache
def rooted_trees(nodes):
    """All rooted trees of so many nodes; a tree is the sorted tuple of its root's subtrees."""
    return tuple(sorted(set(_forests(nodes - 1, nodes - 1))))


def _forests(nodes, largest):
    if nodes == 0:
        yield ()
    for size in range(min(nodes, largest), 0, -1):
        for tree in rooted_trees(size):
            for rest in _forests(nodes - size, size):
                yield tuple(sorted((tree, *rest)))


def size(tree):
    return 1 + sum(size(branch) for branch in tree)


def gamma(tree):
    """The density: the size of the tree times the densities of its branches."""
    density = size(tree)
    for branch in tree:
        density *= gamma(branch)
    return density


def weights(tree, a):
    """Phi_i(tree) for each stage i: the product over branches of sum_j a_ij Phi_j(branch)."""
    stages = len(a)
    phi = [Fraction(1)] * stages
    for branch in tree:
        below = weights(branch, a)
        for i in range(stages):
            phi[i] *= sum((a[i][j] * below[j] for j in range(len(a[i]))), Fraction(0))
    return phi


def residuals(a, b, nodes):
    """sum_i b_i Phi_i - 1 / gamma for every tree of so many nodes."""
    return [
        sum(bi * phi for bi, phi in zip(b, weights(tree, a), strict=True))
        - Fraction(1, gamma(tree))
        for tree in rooted_trees(nodes)
    ]


def dense_residuals(a, dense, nodes):
    """Every coefficient of sum_i b_i(theta) Phi_i - theta^nodes / gamma, for every such tree."""
    found = []
    for tree in rooted_trees(nodes):
        phi = weights(tree, a)
        for power, column in enumerate(zip(*dense, strict=True), start=1):
            exact = Fraction(1, gamma(tree)) if power == nodes else 0
            found.append(sum(x * y for x, y in zip(column, phi, strict=True)) - exact)
    return found
