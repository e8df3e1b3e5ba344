"""What every descriptor is: frozen options and a function of one environment.

A descriptor maps *one* environment to one feature vector; nobody writes an atom axis in a kernel. Blocks, batches and
derivatives are made outside, by vmap and grad.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int


@runtime_checkable
class Descriptor(Protocol):
    """Frozen, hashable options that can be called on one environment."""

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols in the order of the species indices."""
        ...

    @property
    def cutoff(self) -> float:
        """Radius in A beyond which nothing is seen."""
        ...

    @property
    def size(self) -> int:
        """Number of features D."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each feature, (D,)."""
        ...

    def __call__(
        self, R_ij: Float[Array, "K 3"], species_j: Int[Array, " K"], mask: Bool[Array, " K"]
    ) -> Float[Array, " D"]:
        """Features of one environment.

        Args:
          R_ij: pair vectors in A; masked slots hold any nonzero vector.
          species_j: species index of each neighbour.
          mask: which slots are real.
        """
        ...
