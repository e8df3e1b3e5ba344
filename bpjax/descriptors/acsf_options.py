"""Parameters of radial and angular symmetry functions of `bpjax.descriptors.ACSF`."""

import math
from dataclasses import dataclass

from bpjax.spec import register


@register
@dataclass(frozen=True)
class Radial:
    """Parameters of a G2 function: `eta` in 1/A^2 (at least 0), centre `r_s` in A."""

    eta: float
    r_s: float = 0.0

    def __post_init__(self):
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise ValueError(f"Radial eta={self.eta}: must be finite and at least 0, in 1/A^2")
        if not math.isfinite(self.r_s):
            raise ValueError(f"Radial r_s={self.r_s}: must be finite, in A")


@register
@dataclass(frozen=True)
class Angular:
    """Parameters of a G4 or G5 function: `eta` in 1/A^2, `zeta` at least 1, `lam` +1 or -1, centre `r_s` in A."""

    eta: float
    zeta: float
    lam: float
    r_s: float = 0.0

    def __post_init__(self):
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise ValueError(f"Angular eta={self.eta}: must be finite and at least 0, in 1/A^2")
        if not (math.isfinite(self.zeta) and self.zeta >= 1):
            raise ValueError(f"Angular zeta={self.zeta}: must be at least 1")
        if self.lam not in (1, -1):
            raise ValueError(f"Angular lam={self.lam}: must be 1 or -1")
        if not math.isfinite(self.r_s):
            raise ValueError(f"Angular r_s={self.r_s}: must be finite, in A")
