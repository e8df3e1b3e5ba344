"""What every descriptor is: frozen options and a function of one environment.

A descriptor maps *one* environment to one feature vector; nobody writes an atom axis in a kernel. Blocks, batches and
derivatives are made outside, by vmap and grad.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Int

from bpjax.errors import ConfigError
from bpjax.system import Environment


@runtime_checkable
class Descriptor(Protocol):
    """Frozen, hashable options that can be called on one environment.

    One that has a fast form for CPUs also offers `has_lanes`, whether these options have it, `same_for_all`, whether features do
    not depend on the element of the centre, and `in_lanes(env, species_i) -> (B, D)`: the same features, to rounding, of a block
    of B centres of one element, with a first derivative in reverse mode.
    """

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

    def working_set(self, slots: int) -> int:
        """About how many numbers are held at a time for one environment of `slots` neighbours; decides the size of blocks."""
        ...

    def __call__(
        self,
        env: Environment,
        species_i: Int[Array, ""] | int,
    ) -> Float[Array, " D"]:
        """Features of one environment.

        Args:
          env: pair vectors in A, (K, 3), of which masked slots hold any nonzero vector; species index of each neighbour; which
            slots are real.
          species_i: species index of the centre; many descriptors do not depend on it. A plain int, if it is known to the
            compiler, saves the work for other elements.
        """
        ...


def require_descriptor(descriptor: Any) -> None:
    """Raises for a rule that makes descriptors, and for what is none at all.

    Raises:
      ConfigError: naming what it is.
    """
    kind = type(descriptor).__name__
    if hasattr(descriptor, "build"):
        made = f'such as {kind}(...).build(("H", "O"))'
        text = f"is a rule that makes a descriptor for given elements; take what its build returns, {made}"
        raise ConfigError(f"{kind} {text}", field="descriptor")
    if not isinstance(descriptor, Descriptor):
        raise ConfigError(f"{kind} is no descriptor (ACSF, SOAP, ANI, SymmetryFunctions, ...)", field="descriptor")


def parameters_of(descriptor: Descriptor, dtype) -> dict:
    """Arrays of a descriptor that training changes, at their start; empty for most.

    A descriptor that has some offers `parameters(dtype)`, a dict of arrays (or of such dicts), and takes such a dict as a further
    argument `params`.
    """
    return descriptor.parameters(dtype) if hasattr(descriptor, "parameters") else {}  # pyright: ignore[reportAttributeAccessIssue]


def of_species(elements: Sequence[str], function: Callable[[int], Any], species: Int[Array, ""] | int) -> Any:
    """What `function` gives for the species index of an atom.

    For a plain int that is a call. For a traced index there is a branch for each element: one of them runs, or, where `vmap` runs
    over atoms of unlike species, all do and the right result is picked.
    """
    if isinstance(species, int):
        return function(species)
    if len(elements) == 1:
        return function(0)
    return jax.lax.switch(species, [lambda s=s: function(s) for s in range(len(elements))])
