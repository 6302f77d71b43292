"""The book's figure style, and the few plots that several chapters share.

The one file that needs matplotlib. Nothing else in the package imports it.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

# Okabe & Ito's palette: told apart by colour-blind readers, and by lightness.
BLUE, ORANGE, GREEN, PINK, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
GREY = "#6B6B6B"

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.labelsize": 12,
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, PINK, SKY]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 12,
    "figure.constrained_layout.use": True,
    "figure.dpi": 96,
    "figure.facecolor": "white",
    "figure.figsize": (5.2, 3.4),
    "font.size": 12,
    "grid.color": "#DDDDDD",
    "legend.fontsize": 11,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 6,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
}


def use_book_style() -> None:
    """Set the figure style of the book, and sharp figures in a notebook.

    Widths stay near 5 inches with text of 11 to 12 points, so that a figure can still be read
    when a telephone shows it 340 pixels wide.
    """
    plt.rcParams.update(_STYLE)
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:  # outside a notebook there is nothing more to set
        return
    if get_ipython() is not None:
        set_matplotlib_formats("retina", bbox_inches=None)


def error_against_step(
    ax: Axes, h: Sequence[float], errors: Mapping[str, Sequence[float]], xlabel: str = "step h"
) -> None:
    """Errors over steps on logarithmic axes, each line named with its fitted slope."""
    for (name, error), marker in zip(errors.items(), "osD^v", strict=False):
        slope = np.polyfit(np.log(h), np.log(error), 1)[0]
        ax.loglog(h, error, marker=marker, label=f"{name}, slope {slope:.2f}")
    ax.set(xlabel=xlabel, ylabel="error")
    ax.legend()


def vector_field(
    ax: Axes,
    func: Callable[[float, np.ndarray], Any],
    xlim: tuple[float, float],
    ylim: tuple[float, float],
    n: int = 15,
) -> None:
    """Arrows of equal length along dz/dt = func(0, z) of a two-dimensional autonomous system.

    func takes z of shape [points, 2], as a batch.
    """
    x, y = np.meshgrid(np.linspace(*xlim, n), np.linspace(*ylim, n))
    dz = np.asarray(func(0.0, np.stack([x.ravel(), y.ravel()], axis=-1)))
    length = np.linalg.norm(dz, axis=-1, keepdims=True)
    u, v = (dz / np.where(length == 0, 1, length)).T
    ax.quiver(x.ravel(), y.ravel(), u, v, color="#9A9A9A", pivot="mid", width=0.004)
    ax.set(xlim=xlim, ylim=ylim)


_PLAYER = """<figure class="node-player" id="{name}" style="margin:1em auto;max-width:{width}px">
<img src="{first}" alt="{alt}" width="{width}" height="{height}"
 style="width:100%;height:auto;background:#fff">
<div style="display:flex;gap:.6em;align-items:center;font:14px sans-serif">
<button type="button" aria-label="Play"
 style="width:2.6em;font:inherit;line-height:1.6">&#9654;</button>
<input type="range" min="0" max="{last}" value="0" aria-label="{slider}"
 style="flex:1;min-width:0">
<output style="min-width:6.5em">{label}</output></div>
<figcaption style="margin-top:.4em">{caption}</figcaption>
<script>(() => {{
const figure = document.getElementById("{name}"), image = figure.querySelector("img");
const [button, slider, output] = ["button", "input", "output"].map(s => figure.querySelector(s));
const frames = {frames}, labels = {labels};
let timer = null;
const show = i => {{ slider.value = i; image.src = frames[i]; output.value = labels[i];
  slider.setAttribute("aria-valuetext", labels[i]); }};
const stop = () => {{ clearInterval(timer); timer = null; button.innerHTML = "&#9654;";
  button.setAttribute("aria-label", "Play"); }};
const step = () => {{ if (+slider.value >= {last}) stop(); else show(+slider.value + 1); }};
slider.addEventListener("input", () => {{ stop(); show(+slider.value); }});
button.addEventListener("click", () => {{ if (timer) return stop();
  if (+slider.value >= {last}) show(0);
  timer = setInterval(step, {interval}); button.innerHTML = "&#10073;&#10073;";
  button.setAttribute("aria-label", "Pause"); }});
show(0);
}})();</script></figure>"""


def player(
    fig: Figure,
    draw: Callable[[int], None],
    labels: Sequence[str],
    *,
    name: str,
    slider: str,
    caption: str,
    alt: str,
    fps: float = 6,
) -> Any:
    """A figure with a slider and a play button, as one piece of HTML that needs no kernel.

    Args:
        fig: the figure that draw(i) redraws. It is closed at the end.
        draw: draws frame i.
        labels: what the text beside the slider says at each frame.
        name: the element's id, such as "fig-1-3".
        slider: what the slider sets, for screen readers.
        caption, alt: the caption (HTML), and what the figure shows in words.
        fps: frames a second while it plays. It never starts by itself.

    Returns:
        IPython.display.HTML. Frames are WebP images inside it, about 10 kB each.
    """
    from IPython.display import HTML
    from PIL import Image

    frames = []
    for i in range(len(labels)):
        draw(i)
        png, webp = io.BytesIO(), io.BytesIO()
        fig.savefig(png, format="png", dpi=144, facecolor="white")
        Image.open(png).convert("RGB").save(webp, format="WEBP", quality=82, method=4)
        frames.append("data:image/webp;base64," + base64.b64encode(webp.getvalue()).decode())
    width, height = (round(96 * inches) for inches in fig.get_size_inches())
    plt.close(fig)
    return HTML(
        _PLAYER.format(
            name=name,
            width=width,
            height=height,
            first=frames[0],
            alt=html.escape(alt),
            slider=html.escape(slider),
            label=html.escape(labels[0]),
            caption=caption,
            last=len(labels) - 1,
            frames=list(frames),
            labels=[html.escape(label) for label in labels],
            interval=round(1000 / fps),
        )
    )
