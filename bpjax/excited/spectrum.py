r"""Absorption spectra from an ensemble of geometries.

.. math:: \sigma(E) = \frac{\pi e^2 \hbar}{2 m_e c\, \varepsilon_0}
   \frac1N \sum_{n=1}^N \sum_j f_j(R_n)\, g(E - \Delta E_j(R_n)) , \qquad
   \int \sigma\, \mathrm dE = 1.0976\ \text{eV A}^2\, \sum_j \langle f_j \rangle

with a normalised line shape g. Host code in numpy; energies in eV, cross-sections in A^2.

References: R. Crespo-Otero and M. Barbatti, Theor. Chem. Acc. 131, 1237 (2012), doi:10.1007/s00214-012-1237-4.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bpjax.units import BOHR, HARTREE, INVERSE_FINE_STRUCTURE

SUM_RULE = 2 * np.pi**2 / INVERSE_FINE_STRUCTURE * HARTREE * BOHR**2
"""Integral of the cross-section over the energy for an oscillator strength of 1, eV A^2."""


class Spectrum(NamedTuple):
    """A cross-section on a grid of energies.

    Attributes:
      energy: in eV.
      cross_section: of the ensemble, A^2.
      states: contribution of each excited state.
      error: standard deviation of the mean over the geometries.
    """

    energy: Float[np.ndarray, " E"]
    cross_section: Float[np.ndarray, " E"]
    states: Float[np.ndarray, "S E"]
    error: Float[np.ndarray, " E"]


def oscillator_strengths(gaps: Float[np.ndarray, "*n"], dipoles: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
    r""":math:`f = \frac23 \Delta E\, |\mu|^2` from excitation energies in eV and transition dipoles in e A."""
    return 2 / 3 * np.asarray(gaps) / HARTREE * np.sum(np.abs(np.asarray(dipoles) / BOHR) ** 2, axis=-1)


def line(x: Float[np.ndarray, "*n"], width: float, shape: str) -> Float[np.ndarray, "*n"]:
    r"""Normalised line shape of full width at half maximum `width`: "gaussian" or "lorentzian".

    .. math:: g = \frac{2}{w} \sqrt{\frac{\ln 2}{\pi}}\, e^{-4 \ln 2\, x^2/w^2} \quad \text{or} \quad
       \frac{1}{\pi} \frac{w/2}{x^2 + w^2/4}
    """
    if shape == "gaussian":
        return 2 / width * np.sqrt(np.log(2) / np.pi) * np.exp(-4 * np.log(2) * (x / width) ** 2)
    return 0.5 * width / np.pi / (x**2 + 0.25 * width**2)


def absorption_spectrum(
    energy: Any,
    gaps: Any,
    strengths: Any,
    width: float = 0.1,
    shape: str = "gaussian",
) -> Spectrum:
    """Nuclear-ensemble spectrum.

    Args:
      energy: grid (E,) in eV.
      gaps: excitation energies (N, S) of every geometry and excited state, eV.
      strengths: oscillator strengths (N, S).
      width: full width at half maximum in eV.
      shape: "gaussian" or "lorentzian".

    Raises:
      ValueError: shapes that do not fit, values that are not finite, a width that is not positive, an unknown shape.
    """
    E, gap, f = (np.asarray(x, float) for x in (energy, gaps, strengths))
    if gap.ndim != 2 or gap.shape != f.shape or not gap.size:
        raise ValueError(
            f"absorption_spectrum gaps, strengths: must both be (geometries, states), got {gap.shape} and {f.shape}"
        )
    if not (np.isfinite(E).all() and np.isfinite(gap).all() and np.isfinite(f).all()):
        raise ValueError("absorption_spectrum energy, gaps, strengths: must be finite")
    if not width > 0:
        raise ValueError(f"absorption_spectrum width={width}: must be positive")
    if shape not in ("gaussian", "lorentzian"):
        raise ValueError(f"absorption_spectrum shape={shape!r}: must be gaussian or lorentzian")
    number = len(gap)
    states, squares = np.zeros((gap.shape[1], len(E))), np.zeros(len(E))
    for gaps_n, f_n in zip(gap, f, strict=True):  # one geometry at a time: all at once would fill the memory
        lines = SUM_RULE * f_n[:, None] * line(E[None] - gaps_n[:, None], width, shape)
        states += lines / number
        squares += lines.sum(axis=0) ** 2 / number
    total = states.sum(axis=0)
    error = np.sqrt(np.clip(squares - total**2, 0, None) / max(number - 1, 1))
    return Spectrum(E, total, states, error)
