"""Default sets: good functions from the elements and the cutoff alone.

More sets are in `bpjax.descriptors.published_sets`; how to choose from a set by what it says about a data set is in
`bpjax.descriptors.reduced`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bpjax.descriptors.acsf import ACSF, Angular, Radial
from bpjax.descriptors.base import Descriptor
from bpjax.elements import atomic_numbers, covalent_radii
from bpjax.errors import ConfigError
from bpjax.spec import from_spec, named_class, register

_WIDEST = 100.0
"""Cutoff in A beyond which a set is a slip of the pen."""


@runtime_checkable
class DescriptorSet(Protocol):
    """A rule that makes a descriptor for given elements: what a training file may name in place of a descriptor."""

    def build(self, elements: tuple[str, ...]) -> Descriptor:
        """The descriptor for these elements."""
        ...


def lacks_elements(asked: Any) -> bool:
    """Whether plain values are those of a descriptor of given elements and leave them out."""
    cls = named_class(asked)
    return cls is not None and "elements" not in asked and "elements" in getattr(cls, "__dataclass_fields__", {})


def descriptor_for(
    spec: Mapping[str, Any], elements: tuple[str, ...], where: str, field: str | None = None
) -> Descriptor:
    """The descriptor that plain values ask for, with these elements where they give none.

    Args:
      spec: options with the name of the class under ``type``, as read from TOML.
      elements: chemical symbols of the data.
      where: the file, for messages.
      field: where the options stand in the file, for messages.

    Raises:
      ConfigError: an option that is unknown, missing, of the wrong type or out of range.
    """
    if lacks_elements(spec):
        spec = {"elements": list(elements), **spec}
    try:
        found = from_spec(named_class(spec) or Descriptor, dict(spec), where)
        return found.build(elements) if isinstance(found, DescriptorSet) else found
    except ConfigError as error:
        inner = ".".join(part for part in (field, error.field) if part)
        raise ConfigError(error.message, error.where, inner or None) from error
    except ValueError as error:
        raise ConfigError(str(error), where, field) from error


@register
@dataclass(frozen=True)
class DefaultACSF:
    r"""A systematic set of symmetry functions: Gaussian shells on a regular grid, wide angular functions on a coarser one.

    Shells resolve distances that occur. What keeps atoms apart at distances that training never saw are the Gaussians centred
    at the atom itself (:math:`r_s = 0`): they grow as a neighbour comes closer, and with them the repulsion that was learned. A
    shell further in than any distance of the data responds arbitrarily there; molten silicon collapsed with such shells, and
    without the centred Gaussians.

    Shells of width and spacing :math:`\Delta` stand at :math:`r_s = r_\mathrm{min}, r_\mathrm{min} + \Delta, \ldots < r_c` with
    :math:`\eta = 1/\Delta^2`, so that neighbouring shells overlap at :math:`e^{-1/4}`; each angular shell carries
    :math:`\lambda = \pm 1` and every `zeta`. All angular functions go through moments, hence many of them cost little more than
    one.

    Attributes:
      cutoff: in A.
      radial: number of G2 shells.
      angular: number of G5 shells.
      zeta: exponents of the angular functions.
      smallest: radius of the innermost shell in A; None for 0.8 times the shortest bond by covalent radii.
      centred: eta, in 1/A^2, of the Gaussians centred at the atom.
      cutoff_kind: formula of the cutoff function.
      weighted: one channel weighted by atomic number instead of one per element (pair).
      learn: parameters that training changes, see `ACSF`.

    Raises:
      ValueError: an option out of range.

    References: shells on a grid: Gastegger et al., J. Chem. Phys. 148, 241709 (2018); Imbalzano et al., J. Chem. Phys. 148,
    241730 (2018).
    """

    cutoff: float = 5.5
    radial: int = 10
    angular: int = 6
    zeta: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    smallest: float | None = None
    centred: tuple[float, ...] = (0.03, 0.1, 0.25, 0.6)
    cutoff_kind: str = "poly2"
    weighted: bool = False
    learn: bool | tuple[str, ...] = False

    def __post_init__(self):
        if self.radial < 1 or self.angular < 0:
            raise ValueError(f"DefaultACSF radial={self.radial}, angular={self.angular}: at least 1 and 0")
        if not self.cutoff <= _WIDEST:
            raise ValueError(f"DefaultACSF cutoff={self.cutoff}: must be at most {_WIDEST:g}, in A")
        if self.smallest is not None and self.smallest < 0:
            raise ValueError(f"DefaultACSF smallest={self.smallest}: must be at least 0, in A")
        self.build(("H",))

    def build(self, elements: tuple[str, ...]) -> ACSF:
        """The set for these elements.

        Raises:
          ValueError: the cutoff is not beyond the innermost shell.
        """
        smallest = 0.8 * 2 * covalent_radii(elements).min() if self.smallest is None else self.smallest
        smallest = round(float(smallest), 2)
        if smallest >= self.cutoff:
            raise ValueError(f"DefaultACSF cutoff={self.cutoff}: must be beyond the innermost shell at {smallest} A")
        return ACSF(
            elements=elements,
            cutoff=self.cutoff,
            cutoff_kind=self.cutoff_kind,
            g2=(
                *(Radial(eta=eta) for eta in self.centred),
                *(Radial(eta=eta, r_s=r_s) for eta, r_s in self._shells(self.radial, smallest)),
            ),
            g5=tuple(
                Angular(eta=eta, zeta=zeta, lam=lam, r_s=r_s)
                for eta, r_s in self._shells(self.angular, smallest)
                for zeta in self.zeta
                for lam in (1.0, -1.0)
            ),
            weights=tuple(float(z) for z in atomic_numbers(elements)) if self.weighted else None,
            learn=self.learn,
        )

    def _shells(self, count: int, smallest: float) -> list[tuple[float, float]]:
        if count == 0:
            return []
        spacing = (self.cutoff - smallest) / count
        # Rounded: the parameters are printed in labels and files, and no digit beyond these matters.
        return [(round(1 / spacing**2, 4), round(float(smallest + n * spacing), 4)) for n in np.arange(count)]
