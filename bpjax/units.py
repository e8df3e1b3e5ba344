"""Units of the package and every conversion constant that it uses (CODATA 2018).

Inside bpjax energies are eV, lengths angstrom, masses amu and charges e. Then forces are eV/A, stress is eV/A^3 and the
natural time unit is A sqrt(amu/eV) = 10.18 fs. Nothing else in the package multiplies by a physical constant of its own.
"""

from typing import NamedTuple

from bpjax.errors import ConfigError

BOLTZMANN = 8.617333262145179e-5
"""Boltzmann constant, eV/K."""

TIME_UNIT_FS = 10.180505710774743
"""The natural time unit A sqrt(amu/eV) in femtoseconds."""

FS = 1.0 / TIME_UNIT_FS
"""One femtosecond in natural time units."""

GPA = 1.0 / 160.21766339999996
"""One gigapascal in eV/A^3."""

BAR = 1e-4 * GPA
"""One bar in eV/A^3."""

HARTREE = 27.211386245988
"""One hartree in eV."""

BOHR = 0.529177210903
"""One bohr in angstrom."""

ELECTRON_MASS = 1.0 / 1822.888486209
"""One electron mass, the atomic unit of mass, in amu."""

ATOMIC_TIME_FS = 0.024188843265857
"""One atomic unit of time, hbar/hartree, in femtoseconds."""

HBAR = HARTREE * ATOMIC_TIME_FS / TIME_UNIT_FS
"""Reduced Planck constant in eV times the natural time unit."""

INVERSE_FINE_STRUCTURE = 137.035999084
"""Speed of light in atomic units."""

KCAL_MOL = 0.04336410390059322
"""One (thermochemical) kilocalorie per mole in eV."""

KJ_MOL = KCAL_MOL / 4.184
"""One kilojoule per mole in eV."""

SYSTEMS = {"hartree-bohr": (HARTREE, BOHR), "ev-angstrom": (1.0, 1.0), "kcal/mol-angstrom": (KCAL_MOL, 1.0)}
"""Units that files without any (RuNNer, n2p2, many npz) are found in: (energy in eV, length in A) of each."""

ENERGIES = {
    "ev": 1.0,
    "mev": 1e-3,
    "kcal/mol": KCAL_MOL,
    "kj/mol": KJ_MOL,
    **dict.fromkeys(("hartree", "ha", "eh", "au", "a.u."), HARTREE),
}
"""Names of energy units in files, in small letters, and each in eV."""

LENGTHS = {
    **dict.fromkeys(("a", "ang", "angstrom", "å"), 1.0),
    **dict.fromkeys(("bohr", "a0", "au", "a.u."), BOHR),
    "nm": 10.0,
}
"""Names of length units in files, in small letters, and each in A."""


class ElectronicUnits(NamedTuple):
    """What electronic dynamics needs to know of the units of a model.

    Attributes:
      hbar: in energy times time of the model.
      hartree, electron_mass, bohr: in the units of the model.
      time_fs: its unit of time, sqrt(mass/energy) times length, in femtoseconds.
    """

    hbar: float
    hartree: float
    electron_mass: float
    bohr: float
    time_fs: float

    @property
    def boltzmann(self) -> float:
        """Boltzmann constant per kelvin."""
        return BOLTZMANN / HARTREE * self.hartree


ELECTRONIC = {
    "atomic": ElectronicUnits(1.0, 1.0, 1.0, 1.0, ATOMIC_TIME_FS),
    "ev-angstrom": ElectronicUnits(HBAR, HARTREE, ELECTRON_MASS, BOHR, TIME_UNIT_FS),
}
"""Units of models of excited states: hartree, bohr, electron masses; or eV, angstrom, amu as everywhere else in the package."""


def unit_system(name: str | None, what: str) -> tuple[float, float]:
    """Energy in eV and length in A of one of `SYSTEMS`.

    Args:
      name: its name.
      what: the file or folder that is read or written, for messages.

    Raises:
      ConfigError: None, because such files do not say their units, or an unknown name.
    """
    allowed = " or ".join(SYSTEMS)
    if name is None:
        raise ConfigError(f"RuNNer and n2p2 files do not say their units; give {allowed}", what, "units")
    if name not in SYSTEMS:
        raise ConfigError(f"{name!r} is not known; give {allowed}", what, "units")
    return SYSTEMS[name]
