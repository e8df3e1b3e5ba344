r"""`SOAP`: the smooth overlap of atomic positions, as its power spectrum.

Every neighbour is a Gaussian; the density of each element is expanded in radial functions and spherical harmonics; products of
coefficients, summed over the order m, do not depend on the orientation:

.. math::
    \rho_c(\mathbf r) = \sum_j w_{cj}\, f_c(r_{ij})\, a\, e^{-|\mathbf r - \mathbf R_{ij}|^2 / 2\sigma^2}, \qquad
    c_{cnlm} = \int R_{nl}(r)\, Y_{lm}(\hat{\mathbf r})\, \rho_c(\mathbf r)\, d\mathbf r, \qquad
    p_{cc'nn'l} = f_l \sum_m c_{cnlm}\, c_{c'n'lm}

The atom in the centre counts as a neighbour at r = 0. Height a, factor :math:`f_l` and the order of the features are the
convention (`bpjax.descriptors.soap_layout`), the radial functions the basis (`bpjax.descriptors.radial`).

References: Bartók, Kondor, Csányi, Phys. Rev. B 87, 184115 (2013), doi:10.1103/PhysRevB.87.184115.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bpjax.descriptors import harmonics, soap_kernels
from bpjax.descriptors.cutoffs import Cutoff
from bpjax.descriptors.radial import BASES, RadialTable, radial_table
from bpjax.descriptors.soap_layout import CHANNELS, CONVENTIONS, Columns, Products, amplitude, columns, products
from bpjax.elements import atomic_numbers, covalent_radii
from bpjax.geometry import norm, sanitised
from bpjax.spec import register
from bpjax.system import Environment

MOST_RADIAL, MOST_DEGREE = 30, 20
"""Largest n_max and l_max."""

DECAY = 1e-3
"""What is left of a Gaussian centred at the cutoff of DScribe at its radius."""

_BASIS = {"bpjax": "bessel", "dscribe": "gto", "featomic": "gto_featomic"}
_CUTOFF = {"bpjax": ("poly2", 0.0), "dscribe": ("hard", 0.0), "featomic": ("cosine", 0.9)}


@register
@dataclass(frozen=True)
class Weighting:
    r"""Weight w(r) of a neighbour by its distance.

    ========  =================================================================================
    kind      w(r)
    ========  =================================================================================
    poly      :math:`c\,(1 + 2 (r/r_0)^3 - 3 (r/r_0)^2)^m` up to :math:`r_0`, 0 beyond
    pow       :math:`c / (d + (r/r_0)^m)`
    exp       :math:`c / (d + e^{-r/r_0})`, as DScribe has it (growing with r)
    ========  =================================================================================

    featomic's "Willatt2018" is "pow" with c = d = rate, r_0 = scale and m = exponent.

    Attributes:
      kind: see the table.
      r_0: scale in A.
      c, d, m: see the table; `d` has no meaning for "poly", `m` none for "exp".

    Raises:
      ValueError: an option out of range.

    References: poly: Caro, Phys. Rev. B 100, 024112 (2019); pow: Willatt, Musil, Ceriotti, Phys. Chem. Chem. Phys. 20, 29661
    (2018).
    """

    kind: str
    r_0: float
    c: float = 1.0
    d: float = 1.0
    m: float = 2.0

    def __post_init__(self):
        if self.kind not in ("poly", "pow", "exp"):
            raise ValueError(f"Weighting kind={self.kind!r}: allowed are poly, pow, exp")
        if not (math.isfinite(self.r_0) and self.r_0 > 0):
            raise ValueError(f"Weighting r_0={self.r_0}: must be positive, in A")
        for name in ("c", "d", "m"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"Weighting {name}={getattr(self, name)}: must be finite and at least 0")
        if self.kind == "pow" and self.d == 0:
            raise ValueError("Weighting d=0.0: must be positive for 'pow', or the weight at r = 0 is infinite")

    def __call__(self, r: Float[Array, "..."]) -> Float[Array, "..."]:
        """Weights at distances r > 0."""
        if self.kind == "poly":
            x = jnp.where(r < self.r_0, r / self.r_0, 1.0)
            base = jnp.where(r < self.r_0, (1 + 2 * x) * (1 - x) ** 2, 1.0)  # 1 + 2 x^3 - 3 x^2, without cancellation
            return jnp.where(r < self.r_0, self.c * base**self.m, 0.0)
        if self.kind == "pow":
            return self.c / (self.d + (r / self.r_0) ** self.m)
        return self.c / (self.d + jnp.exp(-r / self.r_0))

    @property
    def at_centre(self) -> float:
        """The weight at r = 0."""
        if self.kind == "poly":
            return self.c
        if self.kind == "pow":
            return self.c / (self.d + (1.0 if self.m == 0 else 0.0))
        return self.c / (self.d + 1)


@register
@dataclass(frozen=True)
class SOAP:
    r"""SOAP power spectrum as a descriptor: called on one environment, it returns its features.

    `bpjax.interop.soap` makes one from the options of DScribe or featomic.

    Attributes:
      elements: chemical symbols; their order is the order of the species indices.
      radius: :math:`r_c` of the radial basis in A.
      n_max: number of radial functions.
      l_max: highest degree.
      sigma: width of the Gaussians in A.
      convention: "bpjax", "dscribe" or "featomic": normalisation, order of the features, defaults of what follows.
      basis: "bessel", "gto", "polynomial" or "gto_featomic"; None for that of the convention (bessel, gto, gto_featomic).
      cutoff_kind: formula of the cutoff function, see `bpjax.descriptors.cutoffs`; None for that of the convention: poly2,
        hard, cosine. With "hard" features jump where an atom enters, as they do in DScribe, at `cutoff`.
      cutoff_inner: inner radius of the cutoff function as a fraction of `radius`; None for that of the convention: 0, 0, 0.9.
      weighting: weight of a neighbour by its distance; None for 1.
      centre: weight of the atom in the centre; None for `weighting` at r = 0.
      channels: "full", "crossover", "mu1nu1" or "mu2", see `bpjax.descriptors.soap_layout`.
      species_weights: None; or a factor for the density of each element, (S,); or an alchemical mixture: for each of some
        pseudo-elements the weight of every element, (C, S), which stand for the elements from there on.
      learn_weights: whether training changes the species weights (as parameters of the potential, from these on).

    Raises:
      ValueError: an option out of range, with its name and what is allowed.
    """

    elements: tuple[str, ...]
    radius: float = 5.0
    n_max: int = 8
    l_max: int = 6
    sigma: float = 0.4
    convention: str = "bpjax"
    basis: str | None = None
    cutoff_kind: str | None = None
    cutoff_inner: float | None = None
    weighting: Weighting | None = None
    centre: float | None = None
    channels: str = "full"
    species_weights: tuple[float, ...] | tuple[tuple[float, ...], ...] | None = None
    learn_weights: bool = False

    def __post_init__(self):
        if not self.elements or len(set(self.elements)) != len(self.elements):
            raise ValueError(f"SOAP elements={self.elements}: at least one chemical symbol, each once")
        for name, value, allowed in (
            ("convention", self.convention, CONVENTIONS),
            ("channels", self.channels, CHANNELS),
            ("basis", self.basis or "bessel", BASES),
        ):
            if value not in allowed:
                raise ValueError(f"SOAP {name}={value!r}: allowed are {', '.join(allowed)}")
        for name, value, smallest, largest in (
            ("n_max", self.n_max, 1, MOST_RADIAL),
            ("l_max", self.l_max, 0, MOST_DEGREE),
        ):
            if not smallest <= value <= largest:
                raise ValueError(f"SOAP {name}={value}: must be between {smallest} and {largest}")
        for name, value in (("radius", self.radius), ("sigma", self.sigma)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"SOAP {name}={value}: must be positive, in A")
        if self.centre is not None and not (math.isfinite(self.centre) and self.centre >= 0):
            raise ValueError(f"SOAP centre={self.centre}: must be finite and at least 0, or None")
        self._check_radius()
        self._mixture  # noqa: B018  checks the species weights
        self.cutoff_function  # noqa: B018  checks kind and inner radius
        try:
            self._table  # noqa: B018  checks that the radial functions can be made
        except ValueError as error:
            raise ValueError(f"SOAP {error}") from error

    def _check_radius(self) -> None:
        radii = np.sort(covalent_radii(self.elements))
        shortest = 0.8 * 2 * float(radii[0])
        if self.radius < shortest:
            raise ValueError(
                f"SOAP radius={self.radius}: below any bond of {', '.join(self.elements)} ({shortest:.2f} A), so that no "
                "atom had a neighbour"
            )
        if self._basis == "gto" and not self.radius > 1:
            raise ValueError(f"SOAP radius={self.radius}: must be above 1 A for the basis 'gto'")

    @property
    def _basis(self) -> str:
        return _BASIS[self.convention] if self.basis is None else self.basis

    @property
    def cutoff(self) -> float:
        r"""Radius in A beyond which nothing is seen: `radius`; for "dscribe" plus :math:`\sigma\sqrt{-2\ln 10^{-3}}`."""
        hard = self.convention == "dscribe" and self.cutoff_kind in (None, "hard")
        return self.radius + (self.sigma * math.sqrt(-2 * math.log(DECAY)) if hard else 0.0)

    @cached_property
    def cutoff_function(self) -> Cutoff:
        """The cutoff function of the density."""
        kind, inner = _CUTOFF[self.convention]
        kind = self.cutoff_kind or kind
        if self.cutoff_inner is not None:
            inner = self.cutoff_inner
        elif self.cutoff_kind is not None:
            inner = 0.0
        return Cutoff(self.cutoff, kind, inner)

    @cached_property
    def _table(self) -> RadialTable:
        return radial_table(self._basis, self.radius, self.cutoff, self.n_max, self.l_max, self.sigma)

    @cached_property
    def _mixture(self) -> np.ndarray:
        """Weight of each element in each channel, (S, C)."""
        S, given = len(self.elements), self.species_weights
        table = np.eye(S) if given is None else np.asarray(given, float)
        if not np.isfinite(table).all() or table.shape[-1:] != (S,):
            raise ValueError(
                f"SOAP species_weights={given}: one finite number, or for each pseudo-element one, for each of the {S} elements"
            )
        table = np.diag(table) if table.ndim == 1 else table.T
        return table.sum(axis=1, keepdims=True) if self.channels == "mu2" else table

    @cached_property
    def _columns(self) -> Columns:
        return columns(self.convention, self.channels, self._channel_order, self.n_max, self.l_max)

    @property
    def _channel_order(self) -> tuple[int, ...]:
        """Channels in the order of the convention."""
        C = self._mixture.shape[1]
        if self._channel_names[0] not in self.elements or self.convention == "bpjax":
            return tuple(range(C))
        return tuple(int(s) for s in np.argsort(atomic_numbers(self.elements)))

    @property
    def _channel_names(self) -> tuple[str, ...]:
        if self.channels == "mu2":
            return ("*",)
        if np.ndim(self.species_weights or ()) == 2:
            return tuple(f"w{k}" for k in range(1, self._mixture.shape[1] + 1))
        return self.elements

    @cached_property
    def _products(self) -> Products:
        return products(self._columns, self._mixture.shape[1], self.n_max)

    @property
    def size(self) -> int:
        """Number of features."""
        return len(self._columns.l)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Name of each feature, in order: element and radial number (from 0) of both factors, degree."""
        names = (*self._channel_names, "*")
        return tuple(
            f"{names[s]} n={n} {names[t]} n={m} l={l}" for s, n, t, m, l in zip(*self._columns[:5], strict=True)
        )

    def working_set(self, slots: int) -> int:
        """About how many numbers the evaluation of one environment holds at a time."""
        M, C, T = harmonics.size(self.l_max), self._mixture.shape[1], len(self._table.terms(np.float32))
        return slots * (C * M + 2 * M + 2 * T) + T * C * M + C * self.n_max * M + 2 * self.size

    def __call__(
        self,
        env: Environment,
        species_i: Int[Array, ""] | int,
        params: dict | None = None,
    ) -> Float[Array, " D"]:
        """Features of one environment; see `bpjax.descriptors.base.Descriptor`. `params` are learned weights."""
        weights = None if params is None else params["species_weights"]
        return self._spectrum(self._expansion(env, species_i, weights), self._products)

    def parameters(self, dtype) -> dict:
        """What training changes, see `bpjax.descriptors.base.parameters_of`: with `learn_weights` the (C, S) species weights."""
        return {"species_weights": jnp.asarray(self._mixture.T, dtype)} if self.learn_weights else {}

    def chosen(
        self,
        indices: tuple[int, ...],
        env: Environment,
        species_i: Int[Array, ""] | int,
    ) -> Float[Array, " d"]:
        """Features with these numbers; products that none of them needs are not computed."""
        rows = Columns(*(column[list(indices)] for column in self._columns))
        return self._spectrum(
            self._expansion(env, species_i, l_max=int(rows.l.max())),
            products(rows, self._mixture.shape[1], self.n_max),
        )

    def coefficients(
        self,
        env: Environment,
        species_i: Int[Array, ""] | int,
        species_weights: Float[Array, "C S"] | None = None,
    ) -> Float[Array, "C n M"]:
        r"""Expansion coefficients :math:`c_{cnlm}` of one environment, harmonics in the order (l, m), m = -l ... l.

        `species_weights` stand for those of the options: traced values, which can be differentiated and learned.
        """
        return jnp.concatenate(self._expansion(env, species_i, species_weights), axis=-1)

    def power_spectrum(self, coefficients: Float[Array, "C n M"]) -> Float[Array, " D"]:
        """Features from expansion coefficients, such as their mean over the atoms of a structure."""
        c = [coefficients[:, :, l * l : (l + 1) ** 2] for l in range(self.l_max + 1)]
        return self._spectrum(c, self._products)

    def _expansion(self, env: Environment, species_i, species_weights=None, l_max=None) -> list[Array]:
        """Coefficients of each degree, (C, n, 2l + 1)."""
        dtype, l_max = env.R_ij.dtype, self.l_max if l_max is None else l_max
        R_ij = sanitised(env.R_ij, env.mask)
        r_ij = norm(R_ij)
        inside = env.mask & (r_ij < self.cutoff)  # beyond, the polynomials grow without bound
        r = jnp.where(inside, r_ij, self.cutoff / 2)
        f = self.cutoff_function(r) * (1.0 if self.weighting is None else self.weighting(r))
        mixture = jnp.asarray(self._mixture, dtype) if species_weights is None else species_weights.T.astype(dtype)
        series = self._series(dtype, l_max)
        T = soap_kernels.chebyshev(r * (2 / self._table.reach) - 1, len(series))
        Y = harmonics.racah(R_ij / r_ij[:, None], l_max)
        w = mixture[env.species_j] * jnp.where(inside, f, 0)[:, None]
        c = soap_kernels.expansion(T, Y, w, jnp.asarray(series, dtype))
        centre = jnp.asarray(self._centre, dtype)
        return [c[0] + mixture[species_i][:, None, None] * centre[None, :, None], *c[1:]]

    def _series(self, dtype, l_max: int) -> np.ndarray:
        """Chebyshev series of the coefficients, with the norm of the harmonics."""
        y_lm = np.sqrt((2 * np.arange(l_max + 1) + 1) / (4 * np.pi))
        return self._table.terms(dtype)[:, :, : l_max + 1] * y_lm * amplitude(self.convention, self.sigma)

    @cached_property
    def _centre(self) -> np.ndarray:
        """What the atom in the centre adds to the coefficients of degree 0, (n,)."""
        weight = self.centre
        if weight is None:
            weight = 1.0 if self.weighting is None else self.weighting.at_centre
        return self._table.centre * weight * amplitude(self.convention, self.sigma) / math.sqrt(4 * math.pi)

    def _spectrum(self, c: list[Array], products: Products) -> Float[Array, " D"]:
        """Features from the coefficients of each degree: sums over m as matrix products, then the wanted entries."""
        values = []
        for l, left, right in zip(products.degrees, products.left, products.right, strict=True):
            rows = c[l].reshape(-1, 2 * l + 1)
            if self.channels == "mu1nu1":
                rows = jnp.concatenate([rows, c[l].sum(axis=0)])
            values.append((_rows(rows, left) @ _rows(rows, right).T).reshape(-1))
        return jnp.concatenate(values)[products.place] * jnp.asarray(products.factor, values[0].dtype)


def _rows(c: Float[Array, "A m"], rows: np.ndarray) -> Float[Array, "B m"]:
    """These rows, as a slice where they follow each other."""
    if rows[-1] - rows[0] + 1 == len(rows):
        return c[int(rows[0]) : int(rows[-1]) + 1]
    return c[rows]
