r"""States of several multiplicities and their spin-orbit coupling.

A state of multiplicity m = 2S + 1 has m components with :math:`M_s = -S \ldots S` and one energy. Without spin-orbit
coupling the matrix consists of blocks, one for each multiplicity, repeated for each component ("spin-diabatic" or MCH
states). The spin-orbit matrix connects them; its eigenstates are the "spin-adiabatic" or diagonal states.

States are ordered as in SHARC: by multiplicity, then by component, then by state.

References: S. Mai, P. Marquetand, L. Gonzalez, WIREs Comput. Mol. Sci. 8, e1370 (2018), doi:10.1002/wcms.1370.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from bpjax.excited.eigen import eigh
from bpjax.spec import check

HERMITIAN = 1e-6
"""Largest asymmetry of a spin-orbit matrix, relative to its largest element, that may be rounding of a printed file."""


@dataclass(frozen=True)
class SpinStates:
    """How many states there are of each multiplicity.

    Attributes:
      counts: number of singlets, doublets, triplets, ...; ``(4, 0, 3)`` are four singlets and three triplets.

    Raises:
      ValueError: no states at all, or a negative number.

    >>> SpinStates((1, 0, 2)).size
    7
    >>> SpinStates((1, 0, 1)).labels
    ((1, 0, 0.0), (3, 0, -1.0), (3, 0, 0.0), (3, 0, 1.0))
    """

    counts: tuple[int, ...]

    def __post_init__(self):
        good = all(isinstance(n, int) and n >= 0 for n in self.counts) and sum(self.counts) > 0
        check(
            good,
            "SpinStates counts",
            self.counts,
            "must be numbers of singlets, doublets, ..., at least one state in all",
        )

    @property
    def multiplicities(self) -> tuple[int, ...]:
        """Those that have states."""
        return tuple(m for m, n in enumerate(self.counts, 1) if n)

    @property
    def size(self) -> int:
        """Number of states, every component counted."""
        return sum(m * n for m, n in enumerate(self.counts, 1))

    @property
    def labels(self) -> tuple[tuple[int, int, float], ...]:
        """Multiplicity, number of the state (from 0) and M_s of every component, in order."""
        return tuple(
            (m, state, component - (m - 1) / 2)
            for m, n in enumerate(self.counts, 1)
            for component in range(m)
            for state in range(n)
        )

    def expand(self, blocks: dict[int, Inexact[Array, "..."]]) -> Inexact[Array, "S S"]:
        """One matrix from a block (n, n) for each multiplicity; components of a state share a block.

        Raises:
          ValueError: a block is missing, not wanted, or of the wrong shape.
        """
        if tuple(sorted(blocks)) != self.multiplicities:
            raise ValueError(f"blocks of multiplicities {sorted(blocks)}: must be those of {self.multiplicities}")
        for m, block in blocks.items():
            n = self.counts[m - 1]
            if block.shape != (n, n):
                raise ValueError(f"block of multiplicity {m}: must have shape {(n, n)}, got {block.shape}")
        return jax.scipy.linalg.block_diag(*(blocks[m] for m in self.multiplicities for _ in range(m)))

    def populations(self, weights: Float[Array, "*batch S"]) -> Float[Array, "*batch M"]:
        """Sums of weights over all states of each multiplicity, in the order of `multiplicities`."""
        of_state = np.array([m for m, _, _ in self.labels])
        of_each = [np.flatnonzero(of_state == m).astype(np.int32) for m in self.multiplicities]
        return jnp.stack([jnp.sum(weights[..., own], axis=-1) for own in of_each], axis=-1)

    def check_coupling(self, soc: np.ndarray) -> None:
        """Checks a spin-orbit matrix on the host.

        Raises:
          ValueError: wrong shape, not finite, not Hermitian.
        """
        if soc.shape != (self.size, self.size):
            raise ValueError(
                f"spin-orbit matrix: must have shape {(self.size, self.size)} for {self.counts}, got {soc.shape}"
            )
        if not np.isfinite(soc).all():
            raise ValueError("spin-orbit matrix: must be finite")
        asymmetry = np.abs(soc - soc.conj().T)
        if asymmetry.max() > HERMITIAN * max(np.abs(soc).max(), np.finfo(float).tiny):
            i, j = divmod(int(asymmetry.argmax()), self.size)
            raise ValueError(
                f"spin-orbit matrix: must be Hermitian, but elements {i, j} and {j, i} are {soc[i, j]} and {soc[j, i]}"
            )


def spin_adiabatic(
    basis: SpinStates, blocks: dict[int, Inexact[Array, "..."]], soc: Inexact[Array, "S S"]
) -> tuple[Float[Array, " S"], Inexact[Array, "S S"]]:
    """Spin-adiabatic energies and states from spin-free blocks and the spin-orbit matrix, both in the diabatic basis."""
    H = basis.expand(blocks)
    dtype = jnp.result_type(H, soc)
    return eigh(H.astype(dtype) + soc.astype(dtype))


def spin_free(
    basis: SpinStates, blocks: dict[int, Inexact[Array, "..."]], soc: Inexact[Array, "S S"]
) -> tuple[Float[Array, " S"], Inexact[Array, "S S"], Inexact[Array, "S S"]]:
    """Energies and states of each multiplicity by itself (MCH), and the spin-orbit matrix between these states.

    Every component of a state has the same orbital part: the block is diagonalised once and repeated.
    """
    pairs = {m: eigh(block) for m, block in blocks.items()}
    U = basis.expand({m: U for m, (_, U) in pairs.items()})
    E = jnp.concatenate([pairs[m][0] for m in basis.multiplicities for _ in range(m)])
    U = U.astype(jnp.result_type(U, soc))
    return E, U, U.conj().T @ soc.astype(U.dtype) @ U
