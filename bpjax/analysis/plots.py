"""Figures of training, accuracy, structure and dynamics, ready for a paper or a notebook.

Every function takes arrays, returns a matplotlib figure, and writes it (whole or not at all) if it is given a path; the
suffix chooses the format (png, pdf, svg). No global state of matplotlib is touched: no backend is chosen, no style is left set.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from bpjax.analysis.errors import Quantities
from bpjax.units import GPA

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Path = str | os.PathLike[str]
Curve = tuple[np.ndarray, np.ndarray]

STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,
    "svg.hashsalt": "bpjax",
}

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
"""Distinct for readers with any colour vision; after Okabe and Ito, Color Universal Design (2008)."""

MARKERS = ("o", "s", "^", "D")


def styles() -> itertools.cycle:
    """Pairs of colour and marker: 32 that differ."""
    return itertools.cycle([(color, marker) for marker in MARKERS for color in COLORS])


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorator of what makes a figure: draws in our style and saves to `path`, which stays the caller's affair."""

    @wraps(draw)
    def drawn(*args: Any, path: Path | None = None, **options: Any) -> Figure:
        import matplotlib

        from bpjax.io.atomic import atomic_path

        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **options)
            if path is not None:
                # Without the date the same figure is the same file.
                date = {".pdf": "CreationDate", ".svg": "Date"}.get(os.path.splitext(os.fspath(path))[1])
                with atomic_path(path) as temporary:
                    figure.savefig(temporary, metadata={date: None} if date else None)
        return figure

    return drawn


def panels_of(
    columns: int, rows: int = 1, size: tuple[float, float] = (3.2, 2.6), **options: Any
) -> tuple[Figure, Any]:
    """An empty figure and its axes, (rows, columns); `size` in inches is that of one of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


@styled
def plot_learning_curve(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and validation errors while training; for several networks their mean, in a band from the best to the worst.

    Args:
      history: lines of `metrics.jsonl`, or `Fit.history`; may be empty.
      path: file to write (keyword), None for none.
    """
    panels = [
        ("loss", {"train_loss": "training", "validation_loss": "validation"}, 1.0),
        ("validation RMSE, energy (meV/atom)", {"validation_energy_rmse": ""}, 1e3),
        ("validation RMSE, forces (eV/Å)", {"validation_forces_rmse": ""}, 1.0),
        ("validation RMSE, stress (GPa)", {"validation_stress_rmse": ""}, 1 / GPA),
    ]
    known = set().union(*history) if history else set()
    panels = panels[:1] + [panel for panel in panels[1:] if known & set(panel[1])]
    figure, axes = panels_of(len(panels), size=(2.6, 2.4))
    for ax, (label, series, unit) in zip(axes[0], panels, strict=True):
        lowest = np.inf
        for (name, legend), color in zip(series.items(), COLORS, strict=False):
            lines = [line for line in history if name in line]
            steps = [line["step"] for line in lines]
            values = unit * np.array([line[name] for line in lines])
            ax.plot(steps, values, color=color, label=legend)
            members = unit * np.array([line.get("members", {}).get(name, [line[name]]) for line in lines], ndmin=2)
            if members.size and members.shape[1] > 1:
                ax.fill_between(steps, members.min(axis=1), members.max(axis=1), color=color, alpha=0.25, lw=0)
            lowest = min(lowest, np.nanmin(members, initial=np.inf))
        # A likelihood with widths that are learned or predicted is below zero where the fit is good.
        if lowest <= 0:
            ax.set_yscale("symlog", linthresh=1.0)
        elif history:
            ax.set_yscale("log")
            plain_log(ax)
        ax.set(xlabel="step", title=label)
    if history:
        axes[0, 0].legend()
    return figure


def plain_log(ax: Axes) -> None:
    """Labels a logarithmic axis with plain numbers, also where it spans less than a decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


@styled
def plot_parity(
    predicted: Sequence[Quantities],
    reference: Sequence[Quantities],
    groups: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Predictions against reference values, energies, forces and stresses, with the differences below.

    Args:
      predicted: what the model says of each structure; its forces must be there.
      reference: labels of each structure; those that are missing are left out.
      groups: kind of each structure, which gets a colour and its errors in the legend.
      title: above the figure.
      path: file to write (keyword), None for none.
    """
    groups = ["all"] * len(predicted) if groups is None else groups
    pairs = _pairs(predicted, reference, groups)
    figure, axes = panels_of(len(pairs), 2, size=(2.9, 2.0), sharex="col", height_ratios=(3, 1))
    looks = dict(zip(sorted(set(groups)), styles(), strict=False))
    for (upper, lower), (name, unit, found) in zip(axes.T, pairs, strict=True):
        together = np.concatenate([np.zeros(0), *(values for pair in found.values() for values in pair)])
        ends = (together.min(), together.max()) if len(together) else (0.0, 1.0)
        upper.plot(ends, ends, color="0.6", lw=0.8, zorder=0)
        lower.axhline(0, color="0.6", lw=0.8, zorder=0)
        for group, (x, y) in found.items():
            color, marker = looks[group]
            alpha = float(np.clip(30 / np.sqrt(1 + len(together)), 0.15, 0.9))
            look = {"s": 9, "lw": 0, "alpha": alpha, "color": color, "marker": marker, "rasterized": True}
            upper.scatter(x, y, **look)
            lower.scatter(x, (y - x) * unit[1], **look)
        upper.set(ylabel=f"predicted {name[1]}", title=f"{name[0]}: {_errors(found.values(), *unit)}")
        lower.set(xlabel=f"reference {name[1]}", ylabel=f"difference\n({unit[0]})")
        for ax in (upper, lower):  # total energies of all electrons differ in late digits, which belong on the axis
            ax.ticklabel_format(useOffset=False)
        lower.locator_params(axis="x", nbins=4)
        if max(map(abs, ends)) >= 100:
            lower.tick_params(axis="x", labelrotation=20)
    figure.legend(**_group_legend(pairs, looks))
    if title:
        figure.suptitle(title)
    return figure


def _pairs(predicted, reference, groups) -> list[tuple[tuple[str, str], tuple[str, float], dict[str, Curve]]]:
    """For each quantity: its name and axis label, the unit of errors, and by group the reference and predicted values."""
    upper = np.triu_indices(3)
    quantities = {
        "energy": (("energy", "energy (eV/atom)"), ("meV/atom", 1e3), lambda q, n: np.array([q.energy / n])),
        "forces": (("forces", "force (eV/Å)"), ("eV/Å", 1.0), lambda q, n: np.ravel(q.forces)),
        "stress": (("stress", "stress (GPa)"), ("GPa", 1.0), lambda q, n: q.stress[upper] / GPA),
    }
    panels = []
    for quantity, (name, unit, values) in quantities.items():
        found: dict[str, list[Curve]] = {}
        for p, r, group in zip(predicted, reference, groups, strict=True):
            if getattr(p, quantity) is not None and getattr(r, quantity) is not None:
                found.setdefault(group, []).append((values(r, len(p.forces)), values(p, len(p.forces))))
        joined = {group: (_joined(found[group], 0), _joined(found[group], 1)) for group in sorted(found)}
        if joined or quantity != "stress":
            panels.append((name, unit, joined))
    return panels


def _joined(pairs: Sequence[Curve], which: int) -> np.ndarray:
    return np.concatenate([pair[which] for pair in pairs])


def _errors(pairs, unit: str, factor: float) -> str:
    differences = [(y - x) * factor for x, y in pairs]
    if not differences:
        return "no labels"
    difference = np.concatenate(differences)
    return f"RMSE {np.sqrt(np.mean(difference**2)):.3g} {unit}"


def _group_legend(pairs, looks: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """One entry for each group with its root mean square errors."""
    from matplotlib.lines import Line2D

    handles = []
    for group, (color, marker) in looks.items():
        errors = []
        for _, unit, found in pairs:
            if group in found:
                x, y = found[group]
                rmse = float(np.sqrt(np.mean((y - x) ** 2))) * unit[1]
                errors.append("0" if rmse < 5e-5 else f"{rmse:.2g}")
            else:
                errors.append("–")
        label = f"{group}: {', '.join(errors)}"
        handles.append(Line2D([], [], lw=0, marker=marker, color=color, ms=4, label=label))
    title = "RMSE (" + ", ".join(unit[0] for _, unit, _ in pairs) + ")"
    return {"handles": handles, "loc": "outside right upper", "title": title, "title_fontsize": 7.5}


@styled
def plot_energy_volume(
    curves: Mapping[str, Curve], points: Mapping[str, Curve] | None = None, zero: float = 0.0
) -> Figure:
    """Energy against volume of several phases, per atom.

    Args:
      curves: by phase, volumes (A^3/atom) and energies (eV/atom) of the model, drawn as lines.
      points: the same of the reference, drawn as symbols.
      zero: energy in eV/atom that is subtracted from everything.
      path: file to write (keyword), None for none.
    """
    figure, axes = panels_of(1, size=(4.6, 3.4))
    ax = axes[0, 0]
    points = points or {}
    for phase, (color, marker) in zip(dict.fromkeys([*curves, *points]), styles(), strict=False):
        volumes, energies = (np.asarray(values) for values in points.get(phase, ([], [])))
        ax.plot(volumes, energies - zero, marker, ms=4, mfc="white", mew=1.0, color=color)
        if phase in curves:
            volumes, energies = (np.asarray(values) for values in curves[phase])
            ax.plot(volumes, energies - zero, color=color, zorder=1)
        shown = {"marker": marker if phase in points else "", "ls": "-" if phase in curves else ""}
        ax.plot([], [], **shown, ms=4, mfc="white", color=color, label=phase)
    ax.set(xlabel="volume (Å³/atom)", ylabel="energy (eV/atom)" if zero == 0 else "energy above the lowest (eV/atom)")
    if curves and points:
        ax.set_title("lines: model; symbols: reference")
    figure.legend(loc="outside right upper")
    return figure


@styled
def plot_radial_distribution(curves: Mapping[str, Curve]) -> Figure:
    """Radial distribution functions.

    Args:
      curves: by name, distances in A and g(r).
      path: file to write (keyword), None for none.
    """
    figure, axes = panels_of(1, size=(4.2, 2.8))
    ax = axes[0, 0]
    ax.axhline(1, color="0.7", lw=0.7, zorder=0)
    for (name, (r, g)), color in zip(curves.items(), itertools.cycle(COLORS)):
        ax.plot(r, g, color=color, label=name)
    ax.set(xlabel="r (Å)", ylabel="g(r)")
    ax.set_ylim(bottom=0)
    ax.legend()
    return figure


@styled
def plot_dynamics(runs: Mapping[str, Mapping[str, np.ndarray]], targets: Mapping[str, float] | None = None) -> Figure:
    """Temperature and change of the conserved energy against time, one row for each run.

    Args:
      runs: by name, arrays ``time`` (ps), ``temperature`` (K) and ``energy`` (conserved, eV/atom).
      targets: temperature in K at which each run was held, where it was.
      path: file to write (keyword), None for none.
    """
    figure, axes = panels_of(2, len(runs), size=(3.2, 1.7))
    for row, (name, run), color in zip(axes, runs.items(), itertools.cycle(COLORS)):
        time, energy = np.asarray(run["time"]), np.asarray(run["energy"])
        row[0].plot(time, run["temperature"], color=color, lw=0.9)
        if targets and name in targets:
            row[0].axhline(targets[name], color="0.5", lw=0.8, ls="--")
        row[1].plot(time, 1e3 * (energy - energy[:1]), color=color, lw=0.9)
        row[0].set(ylabel="T (K)", title=name)
        row[1].set(ylabel="ΔE (meV/atom)", title="change of the conserved energy")
    for ax in axes[-1]:
        ax.set_xlabel("time (ps)")
    return figure
