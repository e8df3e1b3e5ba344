r"""Energy against volume: scans with a model, and the Birch-Murnaghan equation of state.

In :math:`x = V^{-2/3}` the equation of Birch and Murnaghan is a cubic polynomial, so that the fit is linear least squares:
no first guess, no iterations.

.. math:: E(V) = E_0 + \frac{9 V_0 B_0}{16} \left[ (u - 1)^3 B_0' + (u - 1)^2 (6 - 4 u) \right],
   \qquad u = \left(\frac{V_0}{V}\right)^{2/3}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ase
import numpy as np

from bpjax.errors import BpjaxError
from bpjax.units import GPA

if TYPE_CHECKING:
    from bpjax.potential.evaluator import Evaluator

Values = Sequence[float | int] | np.ndarray


@dataclass(frozen=True)
class EquationOfState:
    """A fitted equation of state; a function of the volume.

    Attributes:
      volume: V0, where the energy is lowest, in A^3 (per atom, if the energies were).
      energy: E0 in eV.
      bulk_modulus: B0 in GPa.
      derivative: B0', pressure derivative of the bulk modulus.
      residual: root mean square difference of the points from the curve, in eV.
    """

    volume: float
    energy: float
    bulk_modulus: float
    derivative: float
    residual: float = 0.0

    def __call__(self, volumes: Values | float) -> np.ndarray:
        """Energies in eV at these volumes."""
        V_0, B_0 = self.volume, self.bulk_modulus * GPA
        u = (V_0 / np.asarray(volumes)) ** (2 / 3)
        above = 9 * V_0 * B_0 / 16 * ((u - 1) ** 3 * self.derivative + (u - 1) ** 2 * (6 - 4 * u))
        return np.asarray(self.energy + above)


def birch_murnaghan(volumes: Values, energies: Values) -> EquationOfState:
    r"""Fits the equation of state by least squares.

    >>> curve = EquationOfState(volume=20.4, energy=-5.4, bulk_modulus=88.0, derivative=4.2)
    >>> V = np.linspace(18, 23, 7)
    >>> round(birch_murnaghan(V, curve(V)).bulk_modulus, 6)
    88.0

    Args:
      volumes: in A^3, at least four different ones on both sides of the minimum.
      energies: in eV.

    Raises:
      BpjaxError: too few volumes, or no minimum between the smallest and the largest.

    References: Birch, Phys. Rev. 71, 809 (1947).
    """
    V, E = np.asarray(volumes, dtype=np.float64), np.asarray(energies, dtype=np.float64)
    if len(np.unique(V)) < 4:
        raise BpjaxError(f"an equation of state needs at least 4 different volumes, got {len(np.unique(V))}")
    scale = np.exp(np.mean(np.log(V)))  # x is of order one, for the sake of the rounding
    x = (V / scale) ** (-2 / 3)
    polynomial = np.polynomial.Polynomial.fit(x, E, 3).convert()
    stationary = polynomial.deriv().roots()
    stationary = stationary[np.isreal(stationary)].real
    minima = stationary[polynomial.deriv(2)(stationary) > 0]
    minima = minima[(minima >= x.min()) & (minima <= x.max())]
    if len(minima) != 1:
        raise BpjaxError(f"no minimum of the energy between the volumes {V.min():.4g} and {V.max():.4g} A^3")
    x_0 = float(minima[0])
    V_0 = scale * x_0**-1.5
    # With x = x_0 u: E'' = 2 * 9 V_0 B_0 / 16 * 2 and E''' = 6 * 9 V_0 B_0 / 16 * (B_0' - 4), derivatives by u.
    unit = polynomial.deriv(2)(x_0) * x_0**2 / 4
    B_0 = unit * 16 / (9 * V_0)
    derivative = 4 + polynomial.deriv(3)(x_0) * x_0**3 / (6 * unit)
    residual = np.sqrt(np.mean((polynomial(x) - E) ** 2))
    found = (V_0, polynomial(x_0), B_0 / GPA, derivative, residual)
    return EquationOfState(*(float(value) for value in found))


def at_volume(atoms: ase.Atoms, volume: float) -> ase.Atoms:
    """A copy of a crystal, scaled isotropically to so many A^3 per atom; labels and calculator are left behind."""
    copy = ase.Atoms(atoms.numbers, cell=atoms.cell, positions=atoms.positions, pbc=atoms.pbc)
    factor = (volume * len(atoms) / atoms.get_volume()) ** (1 / 3)
    copy.set_cell(atoms.cell.array * factor, scale_atoms=True)
    return copy


def energy_volume(
    evaluator: Evaluator, crystals: Mapping[str, ase.Atoms], volumes: Mapping[str, Values]
) -> dict[str, np.ndarray]:
    """Energies of crystals that are scaled isotropically; nothing is relaxed.

    Args:
      evaluator: of the model.
      crystals: by name, a structure at any volume.
      volumes: by name, volumes in A^3 per atom.

    Returns: by name, energies in eV per atom. All structures are evaluated together, with few compilations.
    """
    frames = {name: [at_volume(atoms, float(V)) for V in volumes[name]] for name, atoms in crystals.items()}
    results = iter(evaluator.evaluate_many([atoms for series in frames.values() for atoms in series]))
    return {name: np.array([next(results).energy / len(atoms) for atoms in series]) for name, series in frames.items()}
