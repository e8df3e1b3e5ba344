r"""The likelihood loss: Gaussian errors in energies, forces and stresses, of widths that are given, learned, or predicted.

.. math:: L = \frac{1}{\sum_k w_k} \sum_k w_k \left[ \rho\!\left(\frac{E_k - E_k^\mathrm{ref}}{\sigma_E\, n_k^p}\right)
   + \frac{1}{3 n_k} \sum_{i a} u_{ki}\, \rho\!\left(\frac{F_{kia} - F_{kia}^\mathrm{ref}}{\sigma_{ki}}\right)
   + \frac{1}{9} \sum_{ab} \rho\!\left(\frac{\sigma_{k,ab} - \sigma_{k,ab}^\mathrm{ref}}{\sigma_S}\right) \right]

with :math:`\rho(z) = z^2`, or Huber's function, which grows linearly beyond `huber` widths; p = 0 for errors of the total energy
and p = 1 for errors per atom: structures of different sizes are then held to the same error per atom. The widths of forces are
:math:`\sigma_{ki}^2 = \sigma_F^2 + (c\,|F_{ki}^\mathrm{ref}|)^2`, where c is `forces_relative`. The negative logarithm of the
likelihood is L/2 but for constants.

Widths that are learned (`learned`; one for each kind of label) or predicted atom by atom (`Potential.noise`) are no longer
constants: each squared error then brings :math:`2 \ln \sigma` with it, which keeps widths from growing without end, and the
loss may be negative. At its minimum a learned width is the root mean square error (Nix and Weigend, Proc. ICNN 1, 55, 1994;
Kendall and Gal, NeurIPS 2017). With predicted widths the term of a label is multiplied by :math:`\sigma^{2\beta}`, held
constant, so that labels with large errors go on being fitted (Seitzer et al., ICLR 2022).
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bpjax.spec import check, register
from bpjax.training.dataset import Layout, Targets
from bpjax.training.inputs import Outputs

STRESS_MULTIPLICITY = (1.0, 1.0, 1.0, 2.0, 2.0, 2.0)
"""How often each Voigt component stands in the 3 x 3 tensor."""

KINDS = ("energy", "forces", "stress")
"""Kinds of labels, each with a width."""


class Widths(NamedTuple):
    """Widths of the errors as traced numbers, in the units of `LikelihoodLoss`; None where a kind of label is left out."""

    energy: Float[Array, "*members"] | float | None
    forces: Float[Array, "*members"] | float | None
    stress: Float[Array, "*members"] | float | None


class Noise(NamedTuple):
    """Widths that the model predicts: of the energy of each structure (B,), eV, and of the forces on each atom (N,), eV/A."""

    energy: Float[Array, " B"]
    forces: Float[Array, " N"]


@register
@dataclass(frozen=True)
class LikelihoodLoss:
    """Widths of the errors that are expected of the model and the data.

    Attributes:
      energy: sigma_E in eV (per atom with `energy_per="atom"`), or None to leave energies out.
      forces: sigma_F in eV/A, or None.
      stress: sigma_S in eV/A^3 (0.00624 is 1 GPa), or None.
      energy_per: "atom" or "structure", what sigma_E is the error of.
      forces_relative: width of a force relative to its size, which is added in squares: large forces are fitted less closely.
      huber: errors beyond so many widths count linearly; None for squares throughout.
      learned: whether the widths are learned, one for each kind of label; those given are the start.
      beta: exponent of the weights with predicted widths (`[noise]` of a training file): 0 for the plain likelihood.
      final_energy, final_forces, final_stress: widths at the end of the run; None for no change.
      change: the parts of the run in which widths go over to the final ones, their logarithms linearly.

    Raises:
      ValueError: a width that is not positive, nothing to fit, or options that exclude each other.
    """

    energy: float | None = 0.02
    forces: float | None = 0.1
    stress: float | None = 0.01
    energy_per: str = "atom"
    forces_relative: float = 0.0
    huber: float | None = None
    learned: bool = False
    beta: float = 0.5
    final_energy: float | None = None
    final_forces: float | None = None
    final_stress: float | None = None
    change: tuple[float, float] = (0.7, 0.9)

    def __post_init__(self):
        for name in (*KINDS, *(f"final_{kind}" for kind in KINDS)):
            width = getattr(self, name)
            positive = width is None or (math.isfinite(width) and width > 0)
            check(positive, f"loss {name}", width, "sigma must be positive, or left out")
        if all(getattr(self, kind) is None for kind in KINDS):
            raise ValueError("loss: nothing to fit; give sigma for at least one of energy, forces, stress")
        for kind in KINDS:
            final = getattr(self, f"final_{kind}")
            check(final is None or getattr(self, kind) is not None, f"loss final_{kind}", final, f"{kind} is left out")
        allowed = ("atom", "structure")
        check(self.energy_per in allowed, "loss energy_per", repr(self.energy_per), f"allowed are {', '.join(allowed)}")
        check(self.forces_relative >= 0, "loss forces_relative", self.forces_relative, "must be at least 0")
        check(self.huber is None or self.huber > 0, "loss huber", self.huber, "must be positive, or left out")
        check(0 <= self.beta <= 1, "loss beta", self.beta, "must be between 0 and 1")
        begin, end = self.change
        check(0 <= begin <= end <= 1, "loss change", self.change, "two parts of the run, 0 <= begin <= end <= 1")
        check(
            not (self.learned and self._finals),
            "loss learned",
            True,
            "final widths cannot be given of widths that are learned",
        )
        check(
            not (self.learned and self.forces_relative),
            "loss learned",
            True,
            "learns one width of all forces: without forces_relative",
        )
        check(
            not (self.learned and self.huber),
            "loss learned",
            True,
            "is the likelihood of Gaussian errors: without huber",
        )

    @property
    def _finals(self) -> tuple[str, ...]:
        """Options of the widths that change during the run."""
        names = (f"final_{kind}" for kind in KINDS)
        return tuple(name for name in names if getattr(self, name) is not None)

    @property
    def beyond_squares(self) -> tuple[str, ...]:
        """Options in the way of methods for which the loss must be a sum of squares with constant widths."""
        others = {"huber": self.huber is not None, "learned": self.learned}
        return (*self._finals, *(name for name, given in others.items() if given))

    def widths(self, progress: Float[Array, ""] | float = 0.0) -> Widths:
        """The widths when the part `progress` of the run is over."""
        begin, end = self.change
        over = jnp.clip((progress - begin) / max(end - begin, 1e-9), 0, 1)

        def width(kind):
            first, last = getattr(self, kind), getattr(self, f"final_{kind}")
            return first if first is None or last is None else first * (last / first) ** over

        return Widths(*(width(kind) for kind in KINDS))


def likelihood_loss(
    loss: LikelihoodLoss,
    outputs: Outputs,
    targets: Targets,
    layout: Layout,
    widths: Widths | None = None,
    noise: Noise | None = None,
) -> Float[Array, ""]:
    """Weighted mean over the structures of a batch; labels that are missing contribute nothing.

    Args:
      loss: options (static).
      outputs: predictions of a batch.
      targets: its labels.
      layout: which atoms belong to which structure.
      widths: widths in place of those of `loss`.
      noise: predicted widths of energies and forces, in place of both.
    """
    total, weight = loss_sums(loss, outputs, targets, layout, widths, noise)
    return total / jnp.maximum(weight, 1e-12)


def loss_sums(loss, outputs, targets, layout, widths=None, noise=None) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Numerator and denominator of the mean over structures, for batches that are summed in parts."""
    widths = loss.widths() if widths is None else widths
    terms = jnp.zeros_like(outputs.energy)
    if loss.energy is not None:
        terms += targets.energy_mask * _energy_term(loss, outputs, targets, layout, widths, noise)
    if loss.forces is not None:
        each = targets.forces_mask * _forces_term(loss, outputs, targets, widths, noise)
        terms += jnp.zeros_like(terms).at[layout.structure].add(each) / (3 * layout.atoms)
    if loss.stress is not None:
        multiplicity = jnp.asarray(STRESS_MULTIPLICITY, outputs.stress.dtype)
        error = (outputs.stress - targets.stress) / widths.stress
        terms += targets.stress_mask * (
            jnp.sum(multiplicity * _rho(loss, error), axis=1) / 9 + _log(loss, widths.stress)
        )
    return jnp.sum(targets.weight * terms), jnp.sum(targets.weight)


def _energy_term(loss, outputs, targets, layout, widths, noise) -> Float[Array, " B"]:
    difference = outputs.energy - targets.energy
    if noise is not None:
        return _predicted(loss, difference**2, noise.energy, 1)
    width = widths.energy * (layout.atoms if loss.energy_per == "atom" else 1.0)
    return _rho(loss, difference / width) + _log(loss, widths.energy)


def _forces_term(loss, outputs, targets, widths, noise) -> Float[Array, " N"]:
    """Sum over the components of the force on each atom."""
    difference = outputs.forces - targets.forces
    if noise is not None:
        return _predicted(loss, jnp.sum(difference**2, axis=1), noise.forces, 3)
    width = widths.forces
    if loss.forces_relative:
        size = jnp.sum(targets.forces**2, axis=1, keepdims=True)
        width = jnp.sqrt(width**2 + loss.forces_relative**2 * size)
    return jnp.sum(_rho(loss, difference / width), axis=1) + 3 * _log(loss, widths.forces)


def _predicted(loss: LikelihoodLoss, square, width, components: int):
    """Terms of labels whose widths the model predicts, for the sum of the squares over so many components."""
    value = square / width**2 + 2 * components * jnp.log(width)
    return jax.lax.stop_gradient(width) ** (2 * loss.beta) * value if loss.beta else value


def _rho(loss: LikelihoodLoss, z):
    if loss.huber is None:
        return z**2
    beyond = jnp.maximum(jnp.abs(z) - loss.huber, 0)
    return z**2 - beyond**2  # 2 huber |z| - huber^2 where |z| > huber


def _log(loss: LikelihoodLoss, width):
    return 2 * jnp.log(width) if loss.learned else 0.0


class Errors(NamedTuple):
    """Sums from which mean absolute and root mean square errors are made; energies per atom."""

    energy: Float[Array, "*members 3"]
    forces: Float[Array, "*members 3"]
    stress: Float[Array, "*members 3"]
    loss: Float[Array, "*members 2"]


def error_sums(loss, outputs, targets, layout, widths=None, noise=None) -> Errors:
    """Count, sum of absolute errors and sum of squares of each kind, and the loss with its weight; see `loss_sums`.

    Predicted widths are judged by the plain likelihood: the loss with `beta` has the right gradients, but not the right minimum.
    """

    def sums(difference, mask):
        mask = (mask > 0).reshape(-1, *[1] * (difference.ndim - 1)) * jnp.ones_like(difference)
        d = difference * mask
        return jnp.stack([mask.sum(), jnp.abs(d).sum(), (d**2).sum()])

    total, weight = loss_sums(replace(loss, beta=0.0), outputs, targets, layout, widths, noise)
    return Errors(
        sums((outputs.energy - targets.energy) / layout.atoms, targets.energy_mask),
        sums(outputs.forces - targets.forces, targets.forces_mask),
        sums(outputs.stress - targets.stress, targets.stress_mask),
        jnp.stack([weight, total]),
    )
