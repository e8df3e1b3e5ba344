r"""Factors that are odd under an exchange of atoms or a reflection, for couplings that must change sign.

Features of environments are invariant to rotations, reflections and exchanges of like atoms. A coupling made of them alone is
the same at a geometry and at its mirror image. Where an intersection lies on a symmetric geometry, the coupling has to change
sign between the two: without that a loop around the intersection is retraced by the invariants and its geometric phase is
zero. Hence couplings are invariants times one of these factors.

**Which factor.** A diabatic state has a sign of its own, a convention that is bound to the geometry, such as the lobe of a p
orbital that counts as positive. An operation P that returns the same molecule may turn the convention over. Then
:math:`H(PR) = D H(R) D` with :math:`D = \operatorname{diag}(\pm 1)`: energies are invariant, and :math:`H_{ij}` changes sign
where :math:`D_i D_j = -1`. A factor names the operations under which it is odd (`signs`), a diabatic state those that turn it
over; :math:`H_{ij}` gets factors that are odd under just the operations in which i and j differ.

In methaniminium, CH2NH2+, the operations are the exchange of the hydrogens of CH2, "C", that of NH2, "N", and the inversion of
the whole molecule, "mirror". With :math:`e = R_N - R_C` and a, b the differences of the hydrogens on C and on N:

==================================  ===================  ==============================================
factor                              odd under            zero
==================================  ===================  ==============================================
`Torsion`, (e x a) . (e x b)        C, N                 at a torsion of 90 degrees
`Twist`, e . (a x b)                C, N, mirror         at 0 and 180 degrees
`SignedVolume` of C and its three   C, mirror            where C is planar; that of N likewise
`Lean`, e . a                       C                    where both hydrogens stand alike; e . b likewise
==================================  ===================  ==============================================

The p orbitals of C and N, normal to CH2 and NH2, are turned over by C and by N, and by the mirror each. The states of
:math:`p_N^2` have no sign, those of :math:`p_C p_N` have those of C and N: their coupling goes with the overlap of the orbitals,
as `Torsion` does, and changes sign at 90 degrees, where the intersection is. An excitation from the CH2 and NH2 bonds to
:math:`\pi^*`, the lowest one of the planar molecule (A2), has the sign of the mirror alone.

Every factor is smooth, finite everywhere (collinear or coincident atoms as well), bounded by one, zero on the symmetric
geometries, and nearly linear for ordinary angles and bonds.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bpjax.elements import atomic_numbers
from bpjax.spec import register


@runtime_checkable
class OddFactor(Protocol):
    """Frozen options of a factor, which is called on the positions."""

    @property
    def signs(self) -> tuple[str, ...]:
        """Names of the operations under which the factor is odd."""
        ...

    @property
    def named(self) -> tuple[int, ...]:
        """Atoms that it names."""
        ...

    def __call__(self, R: Float[Array, "N 3"]) -> Float[Array, ""]:
        """The factor at positions in A, in (-1, 1)."""
        ...


def saturated(x: Float[Array, ""]) -> Float[Array, ""]:
    r""":math:`x / \sqrt{1 + x^2}`: odd, smooth, bounded by one."""
    return x / jnp.sqrt(1 + x * x)


@register
@dataclass(frozen=True)
class Torsion:
    r"""Cosine-like torsion, :math:`x = (e \times a) \cdot (e \times b) / \ell^4` with :math:`e = R_{j} - R_{i}`, saturated.

    a joins the two atoms on one end of the bond, b those on the other; x is the cosine of the angle between the two planes,
    times lengths. It is zero at 90 degrees, odd under the exchange of the atoms of either end, and even under reflections.

    Attributes:
      axis: atoms i, j of the bond.
      left: the two atoms whose difference is a.
      right: the two atoms whose difference is b.
      signs: names of the operations under which it is odd, here the exchanges at both ends.
      length: :math:`\ell` in A; values are nearly linear in x as long as lengths stay below it.

    Raises:
      ValueError: an atom that is named twice, or a length that is not positive.
    """

    axis: tuple[int, int]
    left: tuple[int, int]
    right: tuple[int, int]
    signs: tuple[str, ...] = ("left", "right")
    length: float = 2.0

    def __post_init__(self):
        _check(self, self.length)

    @property
    def named(self) -> tuple[int, ...]:
        """Atoms that it names."""
        return (*self.axis, *self.left, *self.right)

    def __call__(self, R: Float[Array, "N 3"]) -> Float[Array, ""]:
        """The factor at positions in A."""
        e, a, b = (R[last] - R[first] for first, last in (self.axis, self.left, self.right))
        return saturated(jnp.dot(jnp.cross(e, a), jnp.cross(e, b)) / self.length**4)


@register
@dataclass(frozen=True)
class Twist:
    r"""Sine-like torsion, :math:`x = e \cdot (a \times b) / \ell^3` in the notation of `Torsion`, saturated.

    Zero where the molecule is planar, odd under the exchange of the atoms of either end and under reflections.

    Attributes:
      axis: atoms i, j of the bond.
      left: the two atoms whose difference is a.
      right: the two atoms whose difference is b.
      signs: names of the operations under which it is odd.
      length: :math:`\ell` in A.

    Raises:
      ValueError: an atom that is named twice, or a length that is not positive.
    """

    axis: tuple[int, int]
    left: tuple[int, int]
    right: tuple[int, int]
    signs: tuple[str, ...] = ("left", "right", "mirror")
    length: float = 2.0

    def __post_init__(self):
        _check(self, self.length)

    @property
    def named(self) -> tuple[int, ...]:
        """Atoms that it names."""
        return (*self.axis, *self.left, *self.right)

    def __call__(self, R: Float[Array, "N 3"]) -> Float[Array, ""]:
        """The factor at positions in A."""
        e, a, b = (R[last] - R[first] for first, last in (self.axis, self.left, self.right))
        return saturated(jnp.dot(e, jnp.cross(a, b)) / self.length**3)


@register
@dataclass(frozen=True)
class Lean:
    r"""How far two atoms lean to one side, :math:`x = e \cdot a / \ell^2` in the notation of `Torsion`, saturated.

    Odd under the exchange of the two atoms, even under reflections. It serves in products with other factors.

    Attributes:
      axis: atoms i, j of the bond.
      ends: the two atoms whose difference is a.
      signs: names of the operations under which it is odd.
      length: :math:`\ell` in A.

    Raises:
      ValueError: an atom that is named twice, or a length that is not positive.
    """

    axis: tuple[int, int]
    ends: tuple[int, int]
    signs: tuple[str, ...]
    length: float = 2.0

    def __post_init__(self):
        _check(self, self.length)

    @property
    def named(self) -> tuple[int, ...]:
        """Atoms that it names."""
        return (*self.axis, *self.ends)

    def __call__(self, R: Float[Array, "N 3"]) -> Float[Array, ""]:
        """The factor at positions in A."""
        e, a = (R[last] - R[first] for first, last in (self.axis, self.ends))
        return saturated(jnp.dot(e, a) / self.length**2)


@register
@dataclass(frozen=True)
class SignedVolume:
    r"""Triple product :math:`x = (R_a - R_o) \cdot [(R_b - R_o) \times (R_c - R_o)] / \ell^3` of four named atoms, saturated.

    Zero where the four lie in a plane, odd under the exchange of two of them and under reflections.

    Attributes:
      origin: atom o.
      others: atoms a, b, c.
      signs: names of the operations under which it is odd.
      length: :math:`\ell` in A.

    Raises:
      ValueError: an atom that is named twice, or a length that is not positive.
    """

    origin: int
    others: tuple[int, int, int]
    signs: tuple[str, ...]
    length: float = 1.5

    def __post_init__(self):
        _check(self, self.length)

    @property
    def named(self) -> tuple[int, ...]:
        """Atoms that it names."""
        return (self.origin, *self.others)

    def __call__(self, R: Float[Array, "N 3"]) -> Float[Array, ""]:
        """The factor at positions in A."""
        a, b, c = (R[k] - R[self.origin] for k in self.others)
        return saturated(jnp.dot(a, jnp.cross(b, c)) / self.length**3)


@register
@dataclass(frozen=True)
class Chirality:
    r"""A pseudo-scalar of the whole molecule that names no atoms: zero for every molecule that is its own mirror image.

    .. math:: x = g \sum_i v_i \cdot \operatorname{axial}(Q_i P_i), \qquad \operatorname{axial}(M)_a = \epsilon_{abc} M_{bc},
       \qquad v_i, Q_i, P_i = \sum_{j \ne i} Z_j\, e^{-r_{ij}^2 / \ell^2} \{ R_{ij},\; R_{ij} R_{ij}^T \}

    with a width of its own for each of v, Q and P. It is even under exchanges of like atoms and odd under reflections; the
    intersections that it serves are those whose geometry has a mirror plane. There it stands for a torsion, as long as the
    molecule does not become planar: on a planar geometry all couplings with this factor are zero, whether they ought to be
    or not.

    Attributes:
      atoms: chemical symbol of every atom.
      widths: :math:`\ell` of v, Q and P in A; those of Q and P must differ, or the sum is zero.
      gain: g, so that values are of the order of one tenth to one.
      signs: names of the operations under which it is odd.

    Raises:
      ValueError: an option out of range.
    """

    atoms: tuple[str, ...]
    widths: tuple[float, float, float] = (1.0, 1.0, 2.0)
    gain: float = 1.0
    signs: tuple[str, ...] = ("mirror",)

    def __post_init__(self):
        if not all(math.isfinite(width) and width > 0 for width in self.widths):
            raise ValueError(f"Chirality widths={self.widths}: must be positive, in A")
        if self.widths[1] == self.widths[2]:
            raise ValueError(
                f"Chirality widths={self.widths}: the second and the third must differ, or the sum is zero"
            )
        if not (math.isfinite(self.gain) and self.gain > 0):
            raise ValueError(f"Chirality gain={self.gain}: must be positive")
        if not self.signs:
            raise ValueError("Chirality signs=(): at least one name")
        atomic_numbers(self.atoms)

    @property
    def named(self) -> tuple[int, ...]:
        """Atoms that it names: none."""
        return ()

    def __call__(self, R: Float[Array, "N 3"]) -> Float[Array, ""]:
        """The factor at positions in A."""
        R_ij = R[None, :, :] - R[:, None, :]
        square = jnp.sum(R_ij * R_ij, axis=-1)
        Z = jnp.asarray(atomic_numbers(self.atoms), R.dtype)
        other = jnp.asarray(1 - np.eye(len(self.atoms)), R.dtype)
        w = [other * Z[None, :] * jnp.exp(-square / width**2) for width in self.widths]
        v = jnp.einsum("ij,ija->ia", w[0], R_ij)
        Q, P = (jnp.einsum("ij,ija,ijb->iab", weight, R_ij, R_ij) for weight in w[1:])
        M = Q @ P
        axial = jnp.stack([M[:, 1, 2] - M[:, 2, 1], M[:, 2, 0] - M[:, 0, 2], M[:, 0, 1] - M[:, 1, 0]], axis=-1)
        return saturated(self.gain * jnp.sum(v * axial))


def _check(factor: Torsion | Twist | Lean | SignedVolume, length: float) -> None:
    name, named = type(factor).__name__, factor.named
    if len(set(named)) != len(named) or min(named) < 0:
        raise ValueError(f"{name} atoms {named}: every atom once, counted from 0")
    if not (math.isfinite(length) and length > 0):
        raise ValueError(f"{name} length={length}: must be positive, in A")
    if not factor.signs:
        raise ValueError(f"{name} signs=(): at least one name")


def monomials(factors: tuple[OddFactor, ...], wanted: frozenset[str]) -> tuple[tuple[int, ...], ...]:
    """Products of up to two factors that are odd under exactly these operations, as indices; the empty product for none.

    Where both of two factors are odd their product is even.
    """
    if not wanted:
        return ((),)
    sets = [frozenset(factor.signs) for factor in factors]
    single = tuple((k,) for k, own in enumerate(sets) if own == wanted)
    double = tuple((k, l) for k in range(len(sets)) for l in range(k + 1, len(sets)) if sets[k] ^ sets[l] == wanted)
    return single + double
