"""Figures of excited states: populations of hopping runs, energies along paths, the double cone, absorption spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bpjax.analysis.plots import COLORS, Curve, panels_of, styled
from bpjax.excited.populations import Populations
from bpjax.excited.spectrum import Spectrum

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def plot_populations(
    times_fs: np.ndarray,
    found: Populations,
    reference: Mapping[str, Curve] | None = None,
    names: Sequence[str] | None = None,
) -> Figure:
    """Populations of adiabatic states with binomial errors, those of the amplitudes (dashed), and of the diabatic states.

    Where full and dashed lines part, hopping is not consistent with its own amplitudes.

    Args:
      times_fs: of the records.
      found: from `HoppingRun.populations`.
      reference: more curves (times in fs, populations) for the diabatic panel, by name, say the exact ones.
      names: of the adiabatic states.
      path: file to write (keyword), None for none.
    """
    figure, axes = panels_of(2)
    left, right = axes[0]
    for i in range(found.counts.shape[1]):
        color = COLORS[i % len(COLORS)]
        label = names[i] if names else f"state {i}"
        left.plot(times_fs, found.counts[:, i], color=color, label=label)
        low, high = found.counts[:, i] - found.errors[:, i], found.counts[:, i] + found.errors[:, i]
        left.fill_between(times_fs, low, high, color=color, alpha=0.25, lw=0)
        left.plot(times_fs, found.amplitudes[:, i], color=color, ls="--", lw=1)
        right.plot(times_fs, found.diabatic[:, i], color=color, label=f"diabatic {i}")
        low, high = (found.diabatic[:, i] + sign * found.diabatic_errors[:, i] for sign in (-1, 1))
        right.fill_between(times_fs, low, high, color=color, alpha=0.25, lw=0)
    for (name, (t, p)), style in zip((reference or {}).items(), (":", "-.", "--", (0, (1, 3))), strict=False):
        right.plot(t, p, color="black", ls=style, label=name)
    for ax, title in ((left, "adiabatic: trajectories (full), amplitudes (dashed)"), (right, "diabatic")):
        ax.set(xlabel="time (fs)", ylabel="population", ylim=(-0.02, 1.02), title=title)
        ax.legend()
    return figure


@styled
def plot_spectrum(spectra: Mapping[str, Spectrum]) -> Figure:
    """Absorption cross-sections with one standard deviation, and the share of every state (thin).

    Args:
      spectra: by name, from `bpjax.excited.spectrum.absorption_spectrum`.
      path: file to write (keyword), None for none.
    """
    figure, axes = panels_of(1, size=(3.6, 2.6))
    ax = axes[0, 0]
    for n, (name, found) in enumerate(spectra.items()):
        color = COLORS[n % len(COLORS)]
        ax.plot(found.energy, found.cross_section, color=color, label=name)
        ax.fill_between(
            found.energy,
            found.cross_section - found.error,
            found.cross_section + found.error,
            color=color,
            alpha=0.25,
            lw=0,
        )
        for state in found.states if len(found.states) > 1 else ():
            ax.plot(found.energy, state, color=color, lw=0.6, ls="--")
    ax.set(xlabel="energy (eV)", ylabel="cross-section (Å²)", ylim=(0, None))
    ax.legend()
    return figure


@styled
def plot_double_cone(
    x: np.ndarray, y: np.ndarray, energies: np.ndarray, labels: tuple[str, str, str] = ("g", "h", "energy (eV)")
) -> Figure:
    """Surfaces over the branching plane: two sheets that touch in a point.

    Args:
      x, y: displacements along the two directions, (n,) and (m,).
      energies: of each state, (m, n, S).
      labels: of the three axes.
      path: file to write (keyword), None for none.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.8, 3.4), layout="constrained")
    ax = figure.add_subplot(projection="3d")
    X, Y = np.meshgrid(x, y)
    for state in range(energies.shape[-1]):
        ax.plot_surface(
            X, Y, energies[..., state], color=COLORS[state % len(COLORS)], alpha=0.75, lw=0.2, edgecolor="white"
        )
    ax.set(xlabel=labels[0], ylabel=labels[1], zlabel=labels[2])
    ax.view_init(elev=14, azim=-55)
    return figure


@styled
def plot_path(
    s: np.ndarray, energies: Mapping[str, np.ndarray], xlabel: str = "path", ylabel: str = "energy (eV)"
) -> Figure:
    """Energies of all states along a path: the first set as lines, others as markers, say reference points.

    Args:
      s: position along the path (K,).
      energies: by name, (K, S).
      xlabel, ylabel: of the axes.
      path: file to write (keyword), None for none.
    """
    figure, axes = panels_of(1, size=(3.6, 2.6))
    ax = axes[0, 0]
    for n, (name, values) in enumerate(energies.items()):
        for i in range(values.shape[1]):
            style = {"ls": "-"} if n == 0 else {"ls": "", "marker": "o^sD"[(n - 1) % 4], "ms": 3}
            ax.plot(s, values[:, i], color=COLORS[i % len(COLORS)], label=name if i == 0 else None, **style)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if len(energies) > 1:
        ax.legend()
    return figure
