"""The picture of the front page: the same weights as residual blocks and as a flow.

python tools/front_picture.py      writes book/_static/front.png
"""

import pathlib
import sys

import matplotlib
import numpy as np

matplotlib.use("agg")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import matplotlib.pyplot as plt  # noqa: E402

from node_lib import plots  # noqa: E402

rng = np.random.default_rng(22)  # the network of Chapter 1
W1, W2 = rng.normal(size=(2, 16)), rng.normal(size=(16, 2)) / 4
z0 = rng.uniform(-2, 2, size=(5, 2))


def f(t, z):
    return np.tanh(z @ W1) @ W2


def path(steps):
    z, states = z0, [z0]
    for _ in range(steps):
        z = z + 4 / steps * f(0, z)
        states.append(z)
    return np.array(states)


plots.use_book_style()
fig, axes = plt.subplots(1, 2, figsize=(5.8, 3.0), sharex=True, sharey=True)
for ax, steps, style, title in zip(
    axes, (4, 1000), ("o-", "-"), ("four residual blocks", "the flow behind them"), strict=True
):
    states = path(steps)
    plots.vector_field(ax, f, (-1.7, 1.7), (-1.3, 2.2), n=11)
    color = plots.ORANGE if steps == 4 else plots.BLUE
    ax.plot(states[..., 0], states[..., 1], style, color=color, ms=4)
    ax.plot(z0[:, 0], z0[:, 1], "o", color="black", ms=7)
    ax.set(title=title, xticks=[], yticks=[])
    ax.grid(False)
fig.savefig(pathlib.Path(__file__).parents[1] / "book" / "_static" / "front.png", dpi=200)
