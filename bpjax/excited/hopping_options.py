"""Options of surface hopping, checked when they are made."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from bpjax.excited.integrators import Integrator
from bpjax.spec import check
from bpjax.units import ELECTRONIC, ElectronicUnits

Method = Literal["fewest_switches", "landau_zener", "ehrenfest", "born_oppenheimer"]
Amplitudes = Literal["local_diabatisation", "coupling"]
Decoherence = Literal["energy", "none"]
Rescale = Literal["coupling", "gradients", "velocity", "isotropic"]
Frustrated = Literal["keep", "reverse", "gradient"]
Astray = Literal["mark", "lose"]
Lost = Literal["stop", "leave_out"]

DEFAULT_TOLERANCE = 1e-4
"""In eV."""


@dataclass(frozen=True)
class HoppingOptions:
    r"""How trajectories move between states.

    Attributes:
      timestep_fs: of the nuclei, in fs.
      integrator: of the nuclei, "velocity_verlet" or "omelyan", see `bpjax.excited.integrators`.
      energy_tolerance_ev: how far the total energy may go from that at the start, in eV: steps that change it more are divided,
        for each trajectory by itself, into up to 4096 parts. A passage of a cone needs it. 0: all steps are of one length. None:
        1e-4, and 0 with landau_zener, under a thermostat, and in single precision, whose rounding is larger.
      max_drift_ev: a trajectory whose total energy would go farther from that at the start, in eV, cannot go on: its time step is
        too long, or it has left what the model knows. 0: no limit. Without meaning under a thermostat.
      method: "fewest_switches" (Tully), "landau_zener" (from gaps alone, after Belyaev and Lebedev), "ehrenfest" (the mean
        force of the amplitudes, no hops), "born_oppenheimer" (one surface, no hops; the amplitudes still move).
      amplitudes: "local_diabatisation", from the overlaps of the states before and after each step, with the hopping
        probabilities that belong to it; or "coupling", from v.d interpolated over `substeps`, with Tully's probabilities.
      substeps: electronic steps in each nuclear one; with "coupling" only, local diabatisation needs none.
      decoherence: "energy" (Granucci and Persico) or "none".
      decoherence_hartree: C of the former.
      rescale: direction along which momentum pays for a hop: "coupling" (h_ij), "gradients" (their difference), "velocity" (of
        internal motion: translation and rotation of a molecule are left alone), "isotropic" (all velocities by one factor).
      frustrated: hops that cannot be paid for "keep" the velocity, "reverse" its part along the direction, or reverse it where
        the force of the other state pushes back ("gradient", the rule of Jasper and Truhlar).
      tracking: follow the character of states that swap between two steps (trivial crossings). None: as the method needs it.
      region: lowest and highest first coordinate; a trajectory that leaves it outwards has ended. None: it never does.
      temperature: of a Langevin thermostat in K.  friction_per_fs: its friction in 1/fs; 0 for none.
      closest: a trajectory goes astray where two atoms are nearer than so many sums of their covalent radii; 0: no limit.
      max_extrapolations: it goes astray with more warnings than this, one for each atom, feature and step outside of training.
        None: what a tenth of all features for 100 fs would give; -1: no limit. Both need a `hopping_watch.Watch`.
      astray: what becomes of such trajectories: they go on, and averages are given with and without them ("mark"), or they
        cannot go on ("lose", see `lost`).
      lost: trajectories that cannot go on (a hole of the model, values that are not finite, no direction to pay for a hop)
        "stop" the run with an error, or are left out ("leave_out") of all averages from then on. Those that get lost are no fair
        sample: where there are more than a few, averages of the rest are biased.
      hop_capacity: attempted hops of a trajectory that a call has room for; it is grown when there are more.
      units: "atomic" (hartree, bohr, electron masses) or "ev-angstrom" (eV, angstrom, amu): those of the model.

    Raises:
      ValueError: a value out of range, or options that contradict each other.

    References: J. C. Tully, J. Chem. Phys. 93, 1061 (1990), doi:10.1063/1.459170; G. Granucci, M. Persico, A. Toniolo, J. Chem.
    Phys. 114, 10608 (2001), doi:10.1063/1.1376633; G. Granucci and M. Persico, J. Chem. Phys. 126, 134114 (2007),
    doi:10.1063/1.2715585; A. W. Jasper and D. G. Truhlar, Chem. Phys. Lett. 369, 60 (2003).
    """

    timestep_fs: float = 0.5
    integrator: str = "omelyan"
    energy_tolerance_ev: float | None = None
    max_drift_ev: float = 1.0
    method: str = "fewest_switches"
    amplitudes: str = "local_diabatisation"
    substeps: int = 20
    decoherence: str = "energy"
    decoherence_hartree: float = 0.1
    rescale: str = "coupling"
    frustrated: str = "keep"
    tracking: bool | None = None
    region: tuple[float, float] | None = None
    temperature: float = 0.0
    friction_per_fs: float = 0.0
    closest: float = 0.6
    max_extrapolations: int | None = None
    astray: str = "mark"
    lost: str = "stop"
    hop_capacity: int = 32
    units: str = "atomic"

    def __post_init__(self):
        for name, kind in (
            *(("method", Method), ("amplitudes", Amplitudes), ("decoherence", Decoherence)),
            *(("rescale", Rescale), ("frustrated", Frustrated), ("integrator", Integrator)),
            *(("astray", Astray), ("lost", Lost)),
        ):
            allowed = get_args(kind)
            check(
                getattr(self, name) in allowed, f"hopping {name}", getattr(self, name), f"must be {', '.join(allowed)}"
            )
        check(self.units in ELECTRONIC, "hopping units", self.units, f"must be {', '.join(ELECTRONIC)}")
        for name in ("timestep_fs", "decoherence_hartree"):
            value = getattr(self, name)
            check(math.isfinite(value) and bool(value > 0), f"hopping {name}", value, "must be positive and finite")
        for name in ("temperature", "friction_per_fs", "energy_tolerance_ev", "max_drift_ev", "closest"):
            value = getattr(self, name) or 0.0
            check(math.isfinite(value) and bool(value >= 0), f"hopping {name}", value, "must be finite and at least 0")
        for name in ("substeps", "hop_capacity"):
            check(getattr(self, name) >= 1, f"hopping {name}", getattr(self, name), "must be at least 1")
        if self.max_extrapolations is not None:
            value = self.max_extrapolations
            check(value >= -1, "hopping max_extrapolations", value, "must be at least 0, or -1 for no limit")
        if self.region is not None:
            check(self.region[0] < self.region[1], "hopping region", self.region, "must be a lower and a higher number")
        check(
            self.temperature == 0 or self.friction_per_fs > 0,
            "hopping temperature",
            self.temperature,
            "needs friction_per_fs: a thermostat without friction does nothing",
        )
        tolerance = self.energy_tolerance_ev
        for wrong, words in (
            (self.friction_per_fs > 0, "must be 0 with friction_per_fs: a thermostat changes the energy"),
            (self.method == "landau_zener", "must be 0 with landau_zener, which takes gaps at equal intervals"),
        ):
            check(not (tolerance and wrong), "hopping energy_tolerance_ev", tolerance, words)
        check(
            not (self.tracking and self.method == "landau_zener"),
            "hopping tracking",
            self.tracking,
            "must be off with landau_zener, which takes every minimum of the gap of states in order of energy",
        )

    def tolerance_ev(self, dtype: Any) -> float:
        """The energy tolerance for numbers of a type."""
        if self.energy_tolerance_ev is not None:
            return self.energy_tolerance_ev
        fixed = self.method == "landau_zener" or self.friction_per_fs > 0
        return 0.0 if fixed or np.finfo(dtype).eps > 1e-10 else DEFAULT_TOLERANCE

    @property
    def follows_character(self) -> bool:
        """Whether swaps of states are followed."""
        return self.method in ("fewest_switches", "born_oppenheimer") if self.tracking is None else self.tracking

    @property
    def hops(self) -> bool:
        """Whether the method hops at all."""
        return self.method in ("fewest_switches", "landau_zener")

    @property
    def unit_values(self) -> ElectronicUnits:
        """The constants of these units."""
        return ELECTRONIC[self.units]

    @property
    def dt(self) -> float:
        """Time step in the units of the model."""
        return self.timestep_fs / self.unit_values.time_fs
