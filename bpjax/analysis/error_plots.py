"""Figures of how errors are distributed: histograms, and errors by the size of the force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from bpjax.analysis.errors import RESOLUTION, Quantities, differences, force_size_errors
from bpjax.analysis.plots import COLORS, MARKERS, panels_of, plain_log, styled
from bpjax.units import GPA

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 61
"""Of a histogram, at most; fewer where there are few errors."""

WIDEST = 6.0
"""Root mean squares from the middle to the edge of a histogram; errors beyond are counted in its outermost bins."""

_UNITS = {"energy": ("meV/atom", 1e3), "forces": ("eV/Å", 1.0), "stress": ("GPa", 1 / GPA)}


@styled
def plot_errors(splits: Mapping[str, tuple[Sequence[Quantities], Sequence[Quantities], Sequence[int]]]) -> Figure:
    """Distribution of the errors of each split, with normal curves of the same mean and width, and errors by size of the force.

    Counts are logarithmic: the tails show outliers, which a normal curve (dashed) does not have.

    Args:
      splits: by name the predictions, the labels and the numbers of atoms of its structures.
      path: file to write (keyword), None for none.
    """
    found: dict[str, dict[str, np.ndarray]] = {name: {} for name in _UNITS}
    for split, (predicted, reference, atoms) in splits.items():
        rows = [differences(p, r, n) for p, r, n in zip(predicted, reference, atoms, strict=True)]
        for name, of_splits in found.items():
            parts = [row[name] for row in rows if name in row]
            if parts:
                of_splits[split] = np.concatenate(parts)
    shown = {name: of_splits for name, of_splits in found.items() if of_splits} or {"energy": {}}
    figure, axes = panels_of(len(shown) + ("forces" in shown), size=(2.9, 2.5))
    colors = dict(zip(splits, cycle(COLORS)))
    for ax, (name, of_splits) in zip(axes[0], shown.items(), strict=False):
        unit, factor = _UNITS[name]
        _histogram(ax, {split: factor * values for split, values in of_splits.items()}, colors)
        ax.set(xlabel=f"error ({unit})", ylabel="count", title=name)
    if "forces" in shown:
        sizes = {split: force_size_errors(p, r) for split, (p, r, _) in splits.items()}
        _by_size(axes[0, -1], sizes, colors)
    if any(shown.values()):
        axes[0, 0].legend()
    return figure


def _histogram(ax: Axes, of_splits: Mapping[str, np.ndarray], colors: Mapping[str, str]) -> None:
    """Counts of errors on a logarithmic axis, in bins that all splits share."""
    together = np.concatenate([np.zeros(0), *of_splits.values()])
    if not len(together):
        return
    edge = float(min(np.abs(together).max(), WIDEST * np.sqrt(np.mean(together**2)))) or 1.0
    bins = min(BINS, 2 * round(np.sqrt(max(map(len, of_splits.values())))) + 5)  # odd: one is around zero
    edges = np.linspace(-edge, edge, bins + 1)
    x = np.linspace(-edge, edge, 400)
    for split, values in of_splits.items():
        counts, _ = np.histogram(np.clip(values, -edge, edge), edges)
        ax.stairs(counts, edges, color=colors[split], label=split)
        mean, width = values.mean(), values.std()
        if width > 0:
            curve = np.exp(-(((x - mean) / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))
            ax.plot(x, len(values) * (edges[1] - edges[0]) * curve, "--", lw=0.9, color=colors[split])
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.5)
    plain_log(ax)


def _by_size(ax: Axes, sizes: Mapping[str, Sequence[Mapping[str, Any]]], colors: Mapping[str, str]) -> None:
    """Errors of the force components in ranges of the reference force, but for those that vanish by symmetry."""
    ranges = next(iter(sizes.values()))
    last = 0
    for (split, rows), marker in zip(sizes.items(), cycle(MARKERS)):
        known = [n for n, row in enumerate(rows) if row["atoms"] and row["forces_rmse"] > RESOLUTION]
        if known:
            errors = [rows[n]["forces_rmse"] for n in known]
            ax.plot(known, errors, color=colors[split], marker=marker, ms=4, label=split)
            ax.set_yscale("log")
            plain_log(ax)
            last = max(last, *known)
    names = [f"> {row['from']:g}" if row["to"] is None else f"{row['from']:g} – {row['to']:g}" for row in ranges]
    ax.set_xticks(range(last + 1), names[: last + 1], rotation=30, ha="right")
    ax.set(xlabel="reference force on the atom (eV/Å)", ylabel="RMSE (eV/Å)", title="forces by their size")
