r"""Atomic environment vectors (AEV), the descriptor of the ANI potentials.

With neighbours j, k of a centre i, :math:`\theta_{jk}` the angle between them and :math:`f_c` the cutoff function, which has a
radius of its own in each formula:

.. math::
    G^R &= \frac14 \sum_j e^{-\eta (r_{ij} - r_s)^2} f_c(r_{ij}) \\
    G^A &= 2 \sum_{j<k} \Big(\frac{1 + \cos(\vartheta_{jk} - \theta_s)}{2}\Big)^\zeta
           e^{-\eta [(r_{ij} + r_{ik})/2 - r_s]^2} f_c(r_{ij}) f_c(r_{ik}),
    \qquad \cos\vartheta_{jk} = 0.95 \cos\theta_{jk}

Sums run over neighbours of one element (:math:`G^R`) or of one pair of elements (:math:`G^A`), each unordered pair once. The
factors 1/4 and 0.95, which the publications do not mention, are those of NeuroChem and TorchANI. Because of the second one the
angle :math:`\vartheta` keeps 18 degrees away from 0 and 180: all is smooth for neighbours in line, and the base of the power is
at least 0.025 for every :math:`\theta_s` between 0 and 180 degrees.

References: Smith, Isayev, Roitberg, Chem. Sci. 8, 3192 (2017), doi:10.1039/C6SC05720A (formulas); Smith, Nebgen, Lubbers,
Isayev, Roitberg, J. Chem. Phys. 148, 241733 (2018), doi:10.1063/1.5023802 (ANI-1x); Devereux et al., J. Chem. Theory Comput. 16,
4192 (2020), doi:10.1021/acs.jctc.0c00121 (ANI-2x).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement, product

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bpjax.descriptors.acsf_kernels import radial_weights
from bpjax.descriptors.cutoffs import Cutoff
from bpjax.descriptors.lanes import capacity, packed, packing
from bpjax.geometry import norm, sanitised
from bpjax.spec import register
from bpjax.system import Environment

SHRINK = 0.95
"""Factor of the cosine of an angle."""

ROOM = (0.9, 1.3)
"""Slots for pairs in the fast form, relative to what evenly filled slots need."""

TOGETHER = 2**18
"""Numbers that the angular functions of some centres should hold at a time in the fast form."""


def angular_part(cos: Float[Array, " n"], zeta: Float[Array, " A"], theta_s: Float[Array, " A"]) -> Float[Array, "n A"]:
    r""":math:`2\,[(1 + \cos(\vartheta - \theta_s)) / 2]^\zeta`, :math:`\cos\vartheta = 0.95 \cos\theta`; theta_s in radians."""
    cos = SHRINK * cos[:, None]
    sin = jnp.sqrt(1 - cos * cos)
    base = (1 + cos * jnp.cos(theta_s)[None] + sin * jnp.sin(theta_s)[None]) / 2
    return 2 * jnp.exp(zeta[None] * jnp.log(base))  # base >= 0.025; several times faster than a general power


def channel_sums(values: Float[Array, "n F"], channel: Int[Array, " n"], channels: int) -> Float[Array, "channels F"]:
    """Sums of the rows that belong to each channel."""
    return jnp.zeros((channels, values.shape[1]), values.dtype).at[channel].add(values)


def published(first: float, last: float, count: int) -> tuple[float, ...]:
    """Centres from `first` on that divide the way to `last` evenly, rounded to single precision as in the published models."""
    return single(*(first + n * (last - first) / count for n in range(count)))


def single(*values: float) -> tuple[float, ...]:
    """Values rounded to single precision."""
    return tuple(float(np.float32(value)) for value in values)


@register
@dataclass(frozen=True)
class ANI:
    """Atomic environment vectors as a descriptor: called on one environment, it returns its features.

    The order of the features is that of TorchANI: radial ones of each element, then angular ones of each pair of elements
    (H-H, H-C, ..., C-C, ...); within these eta, zeta, shift, section, the last one running fastest.

    Attributes:
      elements: chemical symbols; their order is the order of the species indices and of the features.
      radial_cutoff: cutoff radius of the radial functions in A.
      angular_cutoff: cutoff radius of the angular functions in A, at most `radial_cutoff`.
      radial_eta: eta of the radial functions, in 1/A^2.
      radial_shifts: centres r_s of the radial functions, in A.
      angular_eta: eta of the angular functions, in 1/A^2.
      zeta: exponents of the angular functions.
      angular_shifts: centres r_s of the angular functions, in A.
      sections: angles theta_s of the angular functions in radians, from 0 to pi.
      cutoff_kind: formula of the cutoff function, see `bpjax.descriptors.cutoffs`.

    There is a function for each combination. `ANI.ani1x()` and `ANI.ani2x()` are those of the published models.

    Raises:
      ValueError: an option out of range, with its name and what is allowed.
    """

    elements: tuple[str, ...]
    radial_cutoff: float
    angular_cutoff: float
    radial_eta: tuple[float, ...]
    radial_shifts: tuple[float, ...]
    angular_eta: tuple[float, ...]
    zeta: tuple[float, ...]
    angular_shifts: tuple[float, ...]
    sections: tuple[float, ...]
    cutoff_kind: str = "cosine"

    def __post_init__(self):
        if not self.elements or len(set(self.elements)) != len(self.elements):
            raise ValueError(f"ANI elements={self.elements}: at least one chemical symbol, each once")
        for name, (allowed, unit) in _RANGES.items():
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"ANI {name}={values}: at least one value, each once")
            if not all(math.isfinite(value) and allowed(value) for value in values):
                raise ValueError(f"ANI {name}={values}: must be {unit}")
        for name in ("radial_cutoff", "angular_cutoff"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"ANI {name}={getattr(self, name)}: must be positive, in A")
        if self.angular_cutoff > self.radial_cutoff:
            raise ValueError(f"ANI angular_cutoff={self.angular_cutoff}: at most radial_cutoff={self.radial_cutoff}")
        Cutoff(self.radial_cutoff, self.cutoff_kind)

    @classmethod
    def ani1x(cls, elements: tuple[str, ...] = ("H", "C", "N", "O")) -> "ANI":
        """The functions of ANI-1x and ANI-1ccx (384 for four elements)."""
        return cls(
            elements=elements,
            radial_cutoff=5.2,
            angular_cutoff=3.5,
            radial_eta=(16.0,),
            radial_shifts=published(0.9, 5.2, 16),
            angular_eta=(8.0,),
            zeta=(32.0,),
            angular_shifts=published(0.9, 3.5, 4),
            sections=published(math.pi / 16, math.pi * 17 / 16, 8),
        )

    @classmethod
    def ani2x(cls, elements: tuple[str, ...] = ("H", "C", "N", "O", "S", "F", "Cl")) -> "ANI":
        """The functions of ANI-2x (1008 for seven elements)."""
        return cls(
            elements=elements,
            radial_cutoff=5.1,
            angular_cutoff=3.5,
            radial_eta=single(19.7),
            radial_shifts=published(0.8, 5.1, 16),
            angular_eta=(12.5,),
            zeta=single(14.1),
            angular_shifts=published(0.8, 3.5, 8),
            sections=published(math.pi / 8, math.pi * 9 / 8, 4),
        )

    @property
    def cutoff(self) -> float:
        """Radius in A beyond which nothing is seen: `radial_cutoff`."""
        return self.radial_cutoff

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Unordered pairs of elements, (0, 0), (0, 1), ..."""
        return tuple(combinations_with_replacement(range(len(self.elements)), 2))

    @property
    def size(self) -> int:
        """Number of features."""
        radial = len(self.radial_eta) * len(self.radial_shifts)
        angular = len(self.angular_eta) * len(self.zeta) * len(self.angular_shifts) * len(self.sections)
        return radial * len(self.elements) + angular * len(self.pairs)

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each feature, in order: elements of the neighbours, function."""
        radial = [
            f"{e} radial eta={eta:g} r_s={r_s:g}"
            for e, eta, r_s in product(self.elements, self.radial_eta, self.radial_shifts)
        ]
        names = [f"{self.elements[s]}-{self.elements[t]}" for s, t in self.pairs]
        functions = product(names, self.angular_eta, self.zeta, self.angular_shifts, self.sections)
        angular = [
            f"{e} angular eta={eta:g} zeta={zeta:g} r_s={r_s:g} theta_s={theta_s:g}"
            for e, eta, zeta, r_s, theta_s in functions
        ]
        return tuple(radial + angular)

    def working_set(self, slots: int) -> int:
        """About how many numbers the evaluation of one environment holds at a time."""
        Q, A = len(self.angular_eta) * len(self.angular_shifts), len(self.zeta) * len(self.sections)
        return slots * (slots - 1) // 2 * (Q * A + 2 * Q + 2 * A + 4) + self.size

    def __call__(
        self,
        env: Environment,
        species_i: Int[Array, ""] | int | None = None,
    ) -> Float[Array, " D"]:
        """Features of one environment, the same functions for every centre; see `bpjax.descriptors.base.Descriptor`."""
        return jnp.concatenate([part(env) for part in (self._radial, self._angular)])

    has_lanes = True
    """Whether `in_lanes` is faster than one environment after the other."""

    same_for_all = True
    """Features do not depend on the element of the centre."""

    def in_lanes(
        self,
        env: Environment,
        species_i: int,
        indices: tuple[int, ...] | None = None,
    ) -> Float[Array, "B F"]:
        """Features of a block of centres, or those of these indices; see `bpjax.descriptors.base.Descriptor`.

        Most neighbours are beyond the angular cutoff. Here the others are moved to the first slots, and the pairs are those of no
        more slots than some centres need together.
        """
        radial = jax.vmap(self._radial)(env)
        R = sanitised(env.R_ij, env.mask).transpose(2, 1, 0)
        near = packing((env.mask & (norm(env.R_ij) < self.angular_cutoff)).T)
        C, B = near.slot.shape
        few = min(B, max(1, TOGETHER // self.working_set(self._capacities(C)[0])))
        groups = -(-B // few)

        def grouped(x):
            """Lanes first, in groups; the last is filled up with lanes that nobody looks at."""
            x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, groups * few - B)], mode="edge")
            return jnp.moveaxis(x.reshape(*x.shape[:-1], groups, few), (-2, -1), (0, 1))

        own = packed(near, R), packed(near, env.species_j.T), ~near.free
        angular = jax.lax.map(lambda one: _of_near(self, *one), tuple(map(grouped, own)))
        G = jnp.concatenate([radial, angular.reshape(groups * few, -1)[:B]], axis=1)
        return G if indices is None else G[:, np.array(indices, np.int32)]

    def _capacities(self, slots: int) -> list[int]:
        """Numbers of slots that pairs may be made of: about what the angular cutoff holds of evenly filled ones, more, all."""
        share = slots * (self.angular_cutoff / self.radial_cutoff) ** 3
        return sorted({min(capacity(math.ceil(room * share)), slots) for room in ROOM} | {slots})

    def _radial(self, env: Environment) -> Float[Array, " F"]:
        species_j, mask = env.species_j, env.mask
        r_ij = norm(sanitised(env.R_ij, mask))
        f_c = jnp.where(mask, Cutoff(self.radial_cutoff, self.cutoff_kind)(r_ij), 0)
        eta, r_s = _table(r_ij.dtype, self.radial_eta, self.radial_shifts)
        values = radial_weights(r_ij, f_c, eta, r_s) / 4
        return channel_sums(values, jnp.where(mask, species_j, 0), len(self.elements)).reshape(-1)

    def _angular(self, env: Environment) -> Float[Array, " F"]:
        """Angular functions of one environment.

        Pairs stand in a list, in the order (0, 1), (0, 2), ..., and functions in the last axis. Measured on a CPU, that and
        sums over the rows of each channel are four times as fast as products with one weight for each channel.
        """
        R_ij, species_j, mask = sanitised(env.R_ij, env.mask), jnp.where(env.mask, env.species_j, 0), env.mask
        r_ij = norm(R_ij)
        u, dtype = R_ij / r_ij[:, None], r_ij.dtype
        j, k = (index.astype(np.int32) for index in np.triu_indices(len(r_ij), 1))
        f_c = jnp.where(mask, Cutoff(self.angular_cutoff, self.cutoff_kind)(r_ij), 0)
        eta, r_s = _table(dtype, self.angular_eta, self.angular_shifts)
        zeta, theta_s = _table(dtype, self.zeta, self.sections)
        radial = radial_weights((r_ij[j] + r_ij[k]) / 2, f_c[j] * f_c[k], eta, r_s)
        angular = angular_part(jnp.sum(u[j] * u[k], axis=1), zeta, theta_s)
        order = self._order()
        values = (radial[:, :, None] * angular[:, None, :]).reshape(len(j), len(order))
        sums = channel_sums(values, self._channels()[species_j[j], species_j[k]], len(self.pairs))
        return (sums if (order == np.arange(len(order))).all() else sums[:, order]).reshape(-1)

    def _channels(self) -> Int[Array, "S S"]:
        """Number of each pair of elements."""
        channels = np.zeros((len(self.elements),) * 2, np.int32)
        for number, (s, t) in enumerate(self.pairs):
            channels[s, t] = channels[t, s] = number
        return jnp.asarray(channels)

    def _order(self) -> np.ndarray:
        """Where the function (eta, zeta, shift, section) stands among those in the order eta, shift, zeta, section."""
        shape = len(self.angular_eta), len(self.angular_shifts), len(self.zeta), len(self.sections)
        return np.arange(np.prod(shape), dtype=np.int32).reshape(shape).transpose(0, 2, 1, 3).reshape(-1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _of_near(
    ani: ANI, R: Float[Array, "b 3 C"], species: Int[Array, "b C"], real: Bool[Array, "b C"]
) -> Float[Array, "b F"]:
    """Angular functions of some centres, whose neighbours within the angular cutoff stand in the first slots.

    Its derivative evaluates the functions again: what they would leave for it is more than fits a cache.
    """
    return _branches(ani, R, species, real, lambda angular, R: angular(R))


def _of_near_forward(ani, R, species, real):
    return _of_near(ani, R, species, real), (R, species, real)


def _of_near_backward(ani, kept, cotangent):
    R, species, real = kept
    return _branches(ani, R, species, real, lambda angular, R: jax.vjp(angular, R)[1](cotangent)[0]), None, None


_of_near.defvjp(_of_near_forward, _of_near_backward)


def _branches(ani: ANI, R, species, real, function: Callable[..., Array]) -> Array:
    """What a function of the angular functions and of R gives, with as few slots as will do."""
    sizes = ani._capacities(R.shape[-1])

    def with_slots(n: int, R):
        def angular(R):
            return jax.vmap(ani._angular)(Environment(jnp.moveaxis(R, 1, 2)[:, :n], species[:, :n], real[:, :n]))

        return function(angular, R)

    needed = jnp.max(jnp.sum(real, axis=1, dtype=jnp.int32))
    first = jnp.searchsorted(jnp.asarray(sizes, jnp.int32), needed)
    return jax.lax.switch(first, [partial(with_slots, n) for n in sizes], R)


_RANGES = {
    "radial_eta": (lambda x: x > 0, "positive, in 1/A^2"),
    "radial_shifts": (lambda x: True, "finite, in A"),
    "angular_eta": (lambda x: x > 0, "positive, in 1/A^2"),
    "zeta": (lambda x: x > 0, "positive"),
    "angular_shifts": (lambda x: True, "finite, in A"),
    "sections": (lambda x: 0 <= x <= math.pi * (1 + 1e-7), "angles from 0 to pi, in radians"),
}
"""What is allowed in each tuple of parameters. Pi may be that of single precision."""


def _table(dtype, *parameters: tuple[float, ...]) -> list[Float[Array, " P"]]:
    """Every combination of parameters, the last one running fastest: one array for each."""
    return [jnp.asarray(column, dtype) for column in np.array(list(product(*parameters))).T]
