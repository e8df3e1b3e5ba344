"""Ensembles: several networks trained in one program, and put together into a committee."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from bpjax.potential.energy import Params, Potential
from bpjax.spec import check, check_seed, register

DRAWS = ("all", "bootstrap", "subset")


@register
@dataclass(frozen=True)
class Ensemble:
    """How the members of an ensemble differ: in their first parameters, and in the structures that they see.

    All share the descriptor, which is evaluated once for all of them, the scaling and the order of the batches.

    Attributes:
      members: how many.
      draw: "all": every member sees all training structures; "bootstrap": each as many as there are, drawn with replacement
        (Breiman, Machine Learning 24, 123, 1996); "subset": each a random share.
      fraction: the share of "subset".
    """

    members: int = 8
    draw: str = "all"
    fraction: float = 0.8

    def __post_init__(self):
        check(self.members >= 2, "ensemble members", self.members, "must be at least 2")
        check(self.draw in DRAWS, "ensemble draw", repr(self.draw), f"allowed are {', '.join(DRAWS)}")
        check(0 < self.fraction <= 1, "ensemble fraction", self.fraction, "must be in (0, 1]")

    def seeds(self, first: int) -> np.ndarray:
        """Seeds of the first parameters of the members.

        Raises:
          ValueError: the last of them is no seed.
        """
        check_seed(first + self.members - 1, "start_seed of the last member")
        return first + np.arange(self.members)

    def weights(self, structures: int, seed: int) -> np.ndarray | None:
        """How often each member sees each structure, (members, structures); None if all see all."""
        if self.draw == "all":
            return None
        rng = np.random.default_rng([seed, 1])
        rows = []
        for _ in range(self.members):
            if self.draw == "bootstrap":
                chosen = rng.integers(structures, size=structures)
            else:
                chosen = rng.permutation(structures)[: max(1, round(self.fraction * structures))]
            rows.append(np.bincount(chosen, minlength=structures))
        return np.array(rows, np.float32)


def committee(model: Potential, params: Params, trained: dict, members: int) -> tuple[Potential, Params]:
    """A potential of all members, whose energy is their mean, from the fixed parameters and the stacked trained ones."""
    fixed = {name: value for name, value in params.items() if name not in trained}
    fixed = jax.tree.map(lambda a: jnp.broadcast_to(a, (members, *jnp.shape(a))), fixed)
    return replace(model, members=members), {**fixed, **jax.tree.map(jnp.asarray, trained)}


def member(model: Potential, params: Params, index: int) -> tuple[Potential, Params]:
    """One member of a committee as a potential of its own."""
    return replace(model, members=None), jax.tree.map(lambda a: a[index], params)
