r"""Sets of symmetry functions by published rules: systematic pools that cover an environment without knowledge of the data.

They are meant to be chosen from (`bpjax.descriptors.reduced.choose_features`): evaluate a pool once on the data set, keep what
says most about it. `DefaultACSF` is a set to be used as it is.

Both rules have a *centred* family, Gaussians at the atom itself (:math:`r_s = 0`) of several widths, and a *shifted* family,
Gaussians at several distances. Parameters of both were compared with those that the generator published with n2p2 makes for the
same options; the equations in the papers themselves, and default values in them, were not available for comparison.

References: Gastegger, Schwiedrzik, Bittermann, Berzsenyi, Marquetand, J. Chem. Phys. 148, 241709 (2018),
doi:10.1063/1.5019667; Imbalzano, Anelli, Giofré, Klees, Behler, Ceriotti, J. Chem. Phys. 148, 241730 (2018),
doi:10.1063/1.5024611.
"""

from dataclasses import dataclass

import numpy as np

from bpjax.descriptors.acsf import ACSF, Angular, Radial
from bpjax.elements import atomic_numbers
from bpjax.spec import register

FAMILIES = ("centred", "shifted")
"""Families of Gaussians: of several widths at the atom itself, or at several distances."""

Parameters = list[tuple[float, float]]


@register
@dataclass(frozen=True)
class GasteggerACSF:
    r"""Symmetry functions by the rule of Gastegger et al. (2018), by default weighted by atomic number (wACSF).

    On a grid of n equidistant radii, :math:`r_0` to :math:`r_{n-1}` with spacing :math:`\Delta r`, centred functions have
    :math:`\eta_i = 1/(2 r_i^2)`, shifted ones :math:`r_s = r_i` and :math:`\eta = 1/(2 \Delta r^2)`. Angular functions have the
    same radial parts, on a grid of their own, with :math:`\lambda = \pm 1` and every `zeta`.

    With weights the number of functions does not grow with the number of elements: for data with many of them.

    Attributes:
      cutoff: in A.
      radial: radii on the grid of the radial functions.
      angular: radii on the grid of the angular functions; 0 for none.
      zeta: exponents of the angular functions.
      families: "centred", "shifted" or both, of the radial functions.
      angular_families: the same of the angular functions.
      smallest: first radius in A.
      largest: last radius in A; None for one spacing before the cutoff.
      weighted: one channel weighted by atomic number instead of one per element (pair).
      narrow: whether angular functions see the distance of the two neighbours (G4, as published) or not (G5, faster).
      cutoff_kind: formula of the cutoff function.

    Raises:
      ValueError: an option out of range.
    """

    cutoff: float = 6.0
    radial: int = 16
    angular: int = 6
    zeta: tuple[float, ...] = (1.0, 4.0)
    families: tuple[str, ...] = FAMILIES
    angular_families: tuple[str, ...] = ("centred",)
    smallest: float = 0.5
    largest: float | None = None
    weighted: bool = True
    narrow: bool = True
    cutoff_kind: str = "cosine"

    def __post_init__(self):
        name = "GasteggerACSF"
        if self.radial < 2 or self.angular < 0 or self.angular == 1:
            raise ValueError(f"{name} radial={self.radial}, angular={self.angular}: at least 2 (angular may be 0)")
        _check_families(name, families=self.families, angular_families=self.angular_families)
        largest = self.cutoff if self.largest is None else self.largest
        if not 0 < self.smallest < largest <= self.cutoff:
            raise ValueError(
                f"{name} smallest={self.smallest}, largest={self.largest}: must be positive, increasing, and at most the"
                f" cutoff {self.cutoff}"
            )
        self.build(("H",))

    def build(self, elements: tuple[str, ...]) -> ACSF:
        """The set for these elements."""
        radial, angular = self._parameters(self.radial, self.families), []
        if self.angular:
            angular = self._parameters(self.angular, self.angular_families)
        return _acsf(self, elements, radial, angular)

    def _parameters(self, count: int, families: tuple[str, ...]) -> Parameters:
        if self.largest is None:
            radii = self.smallest + (self.cutoff - self.smallest) / count * np.arange(count)
        else:
            radii = np.linspace(self.smallest, self.largest, count)
        spacing = radii[1] - radii[0]
        by_family = {
            "centred": [(0.5 / r**2, 0.0) for r in radii],
            "shifted": [(0.5 / spacing**2, r) for r in radii],
        }
        return [p for family in families for p in by_family[family]]


@register
@dataclass(frozen=True)
class ImbalzanoACSF:
    r"""Symmetry functions by the rule of Imbalzano et al. (2018): a pool whose resolution is finer close to the atom.

    With n `intervals`, centred functions have :math:`\eta_m = (n^{m/n} / r_c)^2` for m = 0 to n; shifted ones stand at
    :math:`r_m = r_c / n^{m/n}`, m = 1 to n, each as wide as the distance to the next one further out,
    :math:`\eta_m = 1/(r_{m-1} - r_m)^2`. Angular functions have the same radial parts, with intervals of their own,
    :math:`\lambda = \pm 1` and every `zeta`.

    The widths are those of the rule :math:`\eta_{s,m} = 1/(r_{s,n-m} - r_{s,n-m-1})^2`, m = 0 to n - 1, for the function at
    :math:`r_{s,n-m}`.

    Attributes:
      cutoff: in A.
      intervals: number n of intervals of the radial functions.
      angular_intervals: the same of the angular functions; 0 for none.
      zeta: exponents of the angular functions.
      families: "centred", "shifted" or both, of the radial functions.
      angular_families: the same of the angular functions.
      weighted: one channel weighted by atomic number instead of one per element (pair).
      narrow: whether angular functions see the distance of the two neighbours (G4, as published) or not (G5, faster).
      cutoff_kind: formula of the cutoff function.

    Raises:
      ValueError: an option out of range.
    """

    cutoff: float = 6.0
    intervals: int = 8
    angular_intervals: int = 4
    zeta: tuple[float, ...] = (1.0, 4.0, 16.0)
    families: tuple[str, ...] = FAMILIES
    angular_families: tuple[str, ...] = ("centred",)
    weighted: bool = False
    narrow: bool = True
    cutoff_kind: str = "cosine"

    def __post_init__(self):
        name, numbers = "ImbalzanoACSF", (self.intervals, self.angular_intervals)
        if self.intervals < 2 or self.angular_intervals < 0 or self.angular_intervals == 1:
            raise ValueError(
                f"{name} intervals={numbers[0]}, angular_intervals={numbers[1]}: at least 2 (angular may be 0)"
            )
        _check_families(name, families=self.families, angular_families=self.angular_families)
        self.build(("H",))

    def build(self, elements: tuple[str, ...]) -> ACSF:
        """The set for these elements."""
        radial, angular = self._parameters(self.intervals, self.families), []
        if self.angular_intervals:
            angular = self._parameters(self.angular_intervals, self.angular_families)
        return _acsf(self, elements, radial, angular)

    def _parameters(self, n: int, families: tuple[str, ...]) -> Parameters:
        r = self.cutoff / n ** (np.arange(n + 1) / n)
        by_family = {
            "centred": [(1 / r_m**2, 0.0) for r_m in r],
            "shifted": [(1 / (r[m - 1] - r[m]) ** 2, r[m]) for m in range(n, 0, -1)],
        }
        return [p for family in families for p in by_family[family]]


def _check_families(name: str, **options: tuple[str, ...]) -> None:
    for option, families in options.items():
        if not families or len(set(families)) != len(families) or not set(families) <= set(FAMILIES):
            raise ValueError(f"{name} {option}={families}: allowed are {', '.join(FAMILIES)}, each once")


def _acsf(
    options: GasteggerACSF | ImbalzanoACSF,
    elements: tuple[str, ...],
    radial: Parameters,
    angular: Parameters,
) -> ACSF:
    # Rounded: the parameters are printed in labels and files, and no digit beyond these matters.
    functions = tuple(
        Angular(eta=float(f"{eta:.5g}"), zeta=zeta, lam=lam, r_s=round(float(r_s), 4))
        for eta, r_s in angular
        for zeta in options.zeta
        for lam in (1.0, -1.0)
    )
    return ACSF(
        elements=elements,
        cutoff=options.cutoff,
        cutoff_kind=options.cutoff_kind,
        g2=tuple(Radial(eta=float(f"{eta:.5g}"), r_s=round(float(r_s), 4)) for eta, r_s in radial),
        **{"g4" if options.narrow else "g5": functions},
        weights=tuple(float(z) for z in atomic_numbers(elements)) if options.weighted else None,
    )
