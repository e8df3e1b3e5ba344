"""Figures of hyperparameter sweeps: parallel coordinates, and accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bpjax.analysis.plots import COLORS, panels_of, plain_log, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bpjax.training.sweep_files import Trial


@styled
def plot_parallel(trials: Sequence[Trial], objective: str, log: Sequence[str] = ()) -> Figure:
    """One line for each trial through the values of its options to the objective; dark is good, grey was given up.

    Args:
      trials: those of a sweep; ones that diverged are left out.
      objective: its name.
      log: options with a logarithmic axis.
      path: file to write (keyword), None for none.
    """
    import matplotlib

    shown = [t for t in trials if t.objective is not None]
    names = list(dict.fromkeys(name for t in shown for name in t.point))
    columns: list[tuple[str, np.ndarray, list[tuple[float, str]]]] = [
        (name, *_heights([t.point[name] for t in shown], name in log)) for name in names
    ]
    columns.append((objective, *_heights([t.objective for t in shown], True)))
    figure, axes = panels_of(1, size=(max(3.6, 1.3 * len(columns)), 3.2))
    ax = axes[0, 0]
    colormap = matplotlib.colormaps["viridis"]
    # The best ones come last, on top.
    for n in sorted(range(len(shown)), key=lambda n: -columns[-1][1][n]):
        complete = shown[n].state == "complete"
        color = colormap(columns[-1][1][n]) if complete else "0.8"
        heights = [column[1][n] for column in columns]
        ax.plot(range(len(columns)), heights, color=color, lw=1.2 if complete else 0.6, zorder=2 + complete)
    for place, (_, _, ticks) in enumerate(columns):
        ax.axvline(place, color="0.3", lw=0.7, zorder=5)
        for height, text in ticks:
            ax.text(place + 0.03, height, text, fontsize=6.5, va="center", zorder=6)
    ax.set(xlim=(-0.1, len(columns) - 0.7), ylim=(-0.05, 1.05), yticks=[])
    ax.set_xticks(range(len(columns)), [name.replace(".", "\n", 1) for name, *_ in columns])
    for side in ("top", "right", "left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.tick_params(length=0)
    return figure


def _heights(values: Sequence[Any], log: bool) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Places of values on an axis from 0 to 1, and labels at some of them."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not numbers or not values:
        names = sorted({_text(v) for v in values})
        place = {name: (n + 0.5) / len(names) for n, name in enumerate(names)}
        return np.array([place[_text(v)] for v in values]), [(h, name) for name, h in place.items()]
    x = np.array(values, float)
    log = log and x.min() > 0
    y = np.log(x) if log else x
    low, high = y.min(), y.max()
    if low == high:
        return np.full(len(y), 0.5), [(0.5, f"{x[0]:.3g}")]
    at = np.linspace(low, high, 4)
    labels = np.exp(at) if log else at
    return (y - low) / (high - low), [(h, f"{v:.3g}") for h, v in zip(np.linspace(0, 1, 4), labels, strict=True)]


def _text(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


@styled
def plot_pareto(
    trials: Sequence[Trial], front: Sequence[Trial], objective: str, units: Mapping[str, Any] | None = None
):
    """Objective against the cost of the model, with the front of those than which none is cheaper and better.

    Args:
      trials: those of a sweep; only those with a cost are shown.
      front: from `bpjax.training.sweep.pareto_front`.
      objective: its name.
      units: unit of the objective under its name, for the label of the axis.
      path: file to write (keyword), None for none.
    """
    figure, axes = panels_of(1, size=(3.8, 2.9))
    ax = axes[0, 0]
    measured = [t for t in trials if t.cost is not None and t.objective is not None]
    ax.plot([t.cost for t in measured], [t.objective for t in measured], "o", ms=4, color=COLORS[0], mfc="none")
    line = ([t.cost for t in front], [t.objective for t in front])
    ax.plot(*line, drawstyle="steps-post", color=COLORS[1], marker="o", ms=4, label="none cheaper and better")
    unit = (units or {}).get(objective)
    ax.set(xlabel="time of energy and forces (µs/atom)", ylabel=f"{objective} ({unit})" if unit else objective)
    if measured:
        if min(t.objective for t in measured) > 0:
            ax.set_yscale("log")
            plain_log(ax)
        ax.legend()
    return figure
