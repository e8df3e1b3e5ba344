"""The `[optimizer]` section of a training file with `type = "KalmanFilter"`: the extended Kalman filter."""

import math
from dataclasses import dataclass

from bpjax.spec import check, register
from bpjax.training.optimizers import RunOptions


@register
@dataclass(frozen=True, kw_only=True)
class KalmanFilter(RunOptions):
    r"""How to fit with the extended Kalman filter, the usual method of RuNNer and n2p2; formulas in `bpjax.training.kalman`.

    An update takes a few energies or a few forces ("candidates"), and a step of the run is an epoch of such updates. Errors enter
    in units of their widths in the loss, :math:`\xi = (y^\mathrm{ref} - y)/\sigma`, and R = 1 is noise of just that width. The
    filter of n2p2, whose errors are differences of total energies and of forces (times `force_weight`) in its normalised
    units, is the special case ``energy_per="structure"``, :math:`\sigma_E = u`, :math:`\sigma_F = u / (l f)` with u and l the
    normalised units of energy and length in eV and A, and f the `force_weight`; with single components of forces and its own
    schedules (eta from 0.01 to 1, or 1 throughout where it is "fading"). Stresses are validated, but not fitted.

    Attributes:
      epochs: passes; each has as many updates as the fractions below say. A step of a run is an epoch.
      kind: "standard", or "fading", which forgets old updates.
      epsilon: the filter starts with P = 1/epsilon.
      q0, q_tau, q_min: process noise, its decay (exponent per epoch) and where the decay ends.
      eta, eta_tau, eta_max: noise R = 1/eta that falls during the run: eta, its growth (exponent per epoch) and where the growth
        ends. While the errors are far above their widths, a filter that took these at their word would overshoot; and labels
        that come again in every epoch say less each time than their widths do, which is why eta stays below 1.
      lambda_0, nue: "fading": first forgetting factor lambda, and nu of lambda <- nu lambda + 1 - nu after each update.
      blocks: "global": covariances of all weights. "layer": of those of one layer, with one gain for all (decoupled filter of
        Puskorius and Feldkamp). "element": a filter of its own for each element, as `update_strategy 1` of n2p2: each sees the
        error of an energy times its share N_e/N of the atoms, and the whole error of a force.
      selection: "random"; "sorted", the largest errors at the start of the epoch first; "threshold", random ones until one has
        an error above a share of the last epoch's root mean square, after `trials` the one with the largest error.
      energy_threshold, forces_threshold: these shares.
      trials: candidates that "threshold" tries.
      energy_fraction: share of the energies that an epoch uses.
      forces_fraction: share of the forces that an epoch uses; None to follow `force_energy_ratio`.
      force_energy_ratio: updates by forces for each update by energies.
      energies_per_update, forces_per_update: candidates in an update.
      group: "full": each error of an update has its own derivatives; "sum": errors and derivatives are summed up first.
      force_group: "component": a candidate is one component of a force; "atom": all three.
      precision: of the filter: "float64", "float32", or "auto" for the former where JAX has it switched on.

    Raises:
      ValueError: an option out of range.

    References: Blank, Brown, J. Chemom. 8, 391 (1994); Singraber, Morawietz, Behler, Dellago, J. Chem. Theory Comput. 15, 3075
      (2019); Puskorius, Feldkamp, IEEE Trans. Neural Netw. 5, 279 (1994).
    """

    epochs: int = 30
    kind: str = "standard"
    epsilon: float = 1.0
    q0: float = 0.01
    q_tau: float = 2.302
    q_min: float = 1e-6
    eta: float = 0.001
    eta_tau: float = 2.302
    eta_max: float = 0.01
    lambda_0: float = 0.98
    nue: float = 0.99
    blocks: str = "global"
    selection: str = "threshold"
    energy_threshold: float = 0.8
    forces_threshold: float = 0.8
    trials: int = 3
    energy_fraction: float = 1.0
    forces_fraction: float | None = None
    force_energy_ratio: float = 3.0
    energies_per_update: int = 1
    forces_per_update: int = 8
    group: str = "full"
    force_group: str = "atom"
    precision: str = "auto"
    average: float = 0.0
    evaluate_every: int = 1
    checkpoint_every: int = 1

    def __post_init__(self):
        super().__post_init__()
        for name, allowed in _CHOICES.items():
            check(getattr(self, name) in allowed, *_named(self, name), f"allowed are {', '.join(allowed)}")
        for name in ("epochs", "trials", "energies_per_update", "forces_per_update"):
            check(getattr(self, name) >= 1, *_named(self, name), "must be at least 1")
        for name in ("epsilon", "eta", "eta_max", "force_energy_ratio"):
            value = getattr(self, name)
            check(math.isfinite(value) and value > 0, *_named(self, name), "must be positive")
        for name in ("q0", "q_tau", "q_min", "eta_tau", "energy_threshold", "forces_threshold"):
            value = getattr(self, name)
            check(math.isfinite(value) and value >= 0, *_named(self, name), "must be at least 0")
        for name in ("lambda_0", "nue", "energy_fraction", "forces_fraction"):
            value = getattr(self, name)
            check(value is None or 0 < value <= 1, *_named(self, name), "must be above 0 and at most 1")

    @property
    def components(self) -> int:
        """Errors that a candidate for a force update brings."""
        return 3 if self.force_group == "atom" else 1

    @property
    def columns(self) -> int:
        """Errors in an update, at most."""
        full = max(self.energies_per_update, self.forces_per_update * self.components)
        return full if self.group == "full" else 1


_CHOICES = {
    "kind": ("standard", "fading"),
    "blocks": ("global", "element", "layer"),
    "selection": ("random", "sorted", "threshold"),
    "group": ("full", "sum"),
    "force_group": ("component", "atom"),
    "precision": ("auto", "float32", "float64"),
}


def _named(options: KalmanFilter, name: str) -> tuple[str, str]:
    return f"KalmanFilter {name}", repr(getattr(options, name))
