r"""Symmetry functions one by one: every type of RuNNer and n2p2, with its own set for each central element.

`ACSF` is a grid (each parameter set for each element or pair of elements). Published potentials list their functions one by
one; here is the form that holds such a list. With neighbours j, k of centre i, each unordered pair once:

==========  ======================================================================================================
kind        value
==========  ======================================================================================================
2, 12       :math:`\sum_j [Z_j]\, e^{-\eta (r_{ij} - r_s)^2} f_c(r_{ij})`
3, 13       :math:`2^{1-\zeta} \sum_{j<k} [Z_j Z_k]\, (1 + \lambda\cos\theta_{jk})^\zeta e^{-\eta[(r_{ij} - r_s)^2 +
            (r_{ik} - r_s)^2 + (r_{jk} - r_s)^2]} f_c(r_{ij}) f_c(r_{ik}) f_c(r_{jk})`
9           as 3 without :math:`r_{jk}`
20, 23      :math:`\sum_j [Z_j]\, C(r_{ij}; r_l, r_c)`
21, 24      :math:`\sum_{j<k} [Z_j Z_k]\, C(r_{ij}) C(r_{ik}) C(r_{jk}) C(\theta_{jk}; \theta_l, \theta_r)`
22, 25      as 21, 24 without :math:`r_{jk}`
==========  ======================================================================================================

The second number of a line is the weighted form: all neighbours count, with their atomic numbers as weights; the others count
neighbours of one element, or of one pair of elements. C is a compact function, :math:`C(a; l, r) = h(|a - (l + r)/2| /
((r - l)/2))` inside of its interval and 0 outside, with a core h that falls from 1 to 0 (`CORES`).

References: Behler, J. Chem. Phys. 134, 074106 (2011), doi:10.1063/1.3553717 (2, 3, 9); Gastegger et al., J. Chem. Phys. 148,
241709 (2018), doi:10.1063/1.5019667 (12, 13); Bircher, Singraber, Dellago, Mach. Learn.: Sci. Technol. 2, 035026 (2021),
doi:10.1088/2632-2153/abf817 (20 to 25).
"""

import math
from dataclasses import dataclass

from bpjax.spec import register

NEIGHBORS = {2: 1, 3: 2, 9: 2, 12: 0, 13: 0, 20: 1, 21: 2, 22: 2, 23: 0, 24: 0, 25: 0}
"""The kinds, and how many elements of neighbours each names (the weighted ones none)."""

RADIAL = (2, 12, 20, 23)
"""Kinds that sum over neighbours."""

NARROW = (3, 13, 21, 24)
"""Kinds that sum over pairs of neighbours and see their distance."""

WIDE = (9, 22, 25)
"""Kinds that sum over pairs of neighbours and do not see their distance."""

COMPACT = (20, 21, 22, 23, 24, 25)
"""Kinds made of compact functions."""

CORES = ("p1", "p2", "p3", "p4", "e", "p1a", "p2a", "p3a", "p4a", "ea")
r"""Cores of compact functions: polynomials (those of the cutoffs poly1 to poly4) or the exponential; with "a" the radial parts
are asymmetric, :math:`x \to (2 - x) x`."""


@register
@dataclass(frozen=True)
class SymmetryFunction:
    r"""Parameters of one symmetry function; those that its kind does not have keep their defaults.

    Attributes:
      kind: number of the type in n2p2 (see the module).
      cutoff: :math:`r_c`; every neighbour further away counts nothing.
      neighbors: element of the neighbour, or both elements, in the order of atomic numbers; empty for weighted kinds.
      eta: :math:`\eta`, in 1/length^2.
      r_s: :math:`r_s`.
      zeta: :math:`\zeta` > 0.
      lam: :math:`\lambda`, usually 1 or -1.
      r_l: where compact radial parts begin; may be negative, which centres them nearer to the atom.
      angles: :math:`\theta_l, \theta_r` in degrees: inside of 0 to 180, or symmetric about 0 or 180.
      core: one of `CORES`.
      core_jk: core of the factor of the third distance where it is another one, for kinds 21 and 24; empty for `core`. (n2p2
        evaluates functions of type 24 that differ only in their core with that of the first.)

    Lengths are in the unit of the set that holds the function.

    Raises:
      ValueError: a parameter out of range, with its name and what is allowed.
    """

    kind: int
    cutoff: float
    neighbors: tuple[str, ...] = ()
    eta: float = 0.0
    r_s: float = 0.0
    zeta: float = 1.0
    lam: float = 1.0
    r_l: float = 0.0
    angles: tuple[float, float] | None = None
    core: str = ""
    core_jk: str = ""

    def __post_init__(self):
        where = f"symmetry function of type {self.kind}"
        if self.kind not in NEIGHBORS:
            raise ValueError(f"{where}: unknown type; known are {', '.join(map(str, NEIGHBORS))}")
        if len(self.neighbors) != NEIGHBORS[self.kind]:
            raise ValueError(f"{where}: needs {NEIGHBORS[self.kind]} neighbour elements, got {len(self.neighbors)}")
        numbers = {"eta": self.eta, "r_s": self.r_s, "zeta": self.zeta, "lambda": self.lam, "r_l": self.r_l}
        for name, value in {**numbers, "cutoff": self.cutoff}.items():
            if not math.isfinite(value):
                raise ValueError(f"{where}: {name}={value} must be finite")
        if not self.cutoff > 0:
            raise ValueError(f"{where}: cutoff={self.cutoff} must be positive")
        if not self.zeta > 0:
            raise ValueError(f"{where}: zeta={self.zeta} must be positive")
        if self.kind in COMPACT:
            self._check_compact(where)
        elif self.core or self.core_jk or self.angles is not None or self.r_l:
            raise ValueError(f"{where}: has no r_l, angles or core")

    def _check_compact(self, where):
        for name, core in (("core", self.core), ("core_jk", self.core_jk or self.core)):
            if core not in CORES:
                raise ValueError(f"{where}: {name}={core!r}, allowed are {', '.join(CORES)}")
        if self.core_jk and self.kind not in NARROW:
            raise ValueError(f"{where}: has no core_jk")
        if not self.r_l < self.cutoff:
            raise ValueError(f"{where}: r_l={self.r_l} must be less than the cutoff {self.cutoff}")
        if (self.angles is None) != (self.kind in RADIAL):
            raise ValueError(f"{where}: {'has no angles' if self.angles else 'needs two angles'}")
        if self.angles is not None:
            left, right = self.angles
            inside = 0 <= left < right <= 180
            centred = left < right and right - left <= 360 and (left + right) / 2 in (0, 180)
            if not (math.isfinite(left) and math.isfinite(right) and (inside or centred)):
                raise ValueError(
                    f"{where}: angles {left:g} to {right:g} must be increasing and lie inside 0 to 180 degrees, or be"
                    " symmetric about 0 or 180 and span at most 360"
                )
