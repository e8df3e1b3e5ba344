"""Units of the package and every conversion constant that it uses (CODATA 2018).

Inside bpjax energies are eV, lengths angstrom, masses amu and charges e. Then forces are eV/A, stress is eV/A^3 and the
natural time unit is A sqrt(amu/eV) = 10.18 fs. Nothing else in the package multiplies by a physical constant of its own.
"""

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
