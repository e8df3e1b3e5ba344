"""Elements: the order of species, the map to atomic numbers, and the per-element energy offsets.

A model knows an ordered tuple of chemical symbols. Inside traced code an atom carries the *index* into that tuple (0, 1, ...);
atomic numbers and symbols appear only on the host. Every map between the two goes through this file.
"""

from collections.abc import Sequence

import numpy as np

from bpjax.errors import UnknownSpeciesError

NOBLE_GASES = ("He", "Ne", "Ar", "Kr", "Xe", "Rn")
"""They make no bonds, and what holds for bonds does not hold for them."""


def sorted_elements(symbols: Sequence[str]) -> tuple[str, ...]:
    """Returns the distinct chemical symbols in ascending order of atomic number."""
    return tuple(sorted(set(symbols), key=lambda symbol: int(atomic_numbers((symbol,))[0])))


def atomic_numbers(elements: Sequence[str]) -> np.ndarray:
    """Atomic number of each chemical symbol, (S,).

    Raises:
      UnknownSpeciesError: a string is not a chemical symbol.
    """
    from ase.data import atomic_numbers as table

    unknown = [symbol for symbol in elements if table.get(symbol, 0) < 1]
    if unknown:
        raise UnknownSpeciesError(f"not a chemical symbol: {', '.join(map(repr, unknown))}")
    return np.array([table[symbol] for symbol in elements], dtype=np.int32)


def masses(elements: Sequence[str]) -> np.ndarray:
    """Standard atomic weight of each chemical symbol in amu, (S,)."""
    from ase.data import atomic_masses

    return np.asarray(atomic_masses)[atomic_numbers(elements)]


def covalent_radii(elements: Sequence[str]) -> np.ndarray:
    """Covalent radius of each chemical symbol in A, (S,) (Cordero et al., Dalton Trans. 2832 (2008))."""
    from ase.data import covalent_radii as table

    return np.asarray(table)[atomic_numbers(elements)]


def species_of(numbers: np.ndarray, elements: Sequence[str], where: str = "structure") -> np.ndarray:
    """Maps atomic numbers (N,) to species indices (N,) in the order of `elements`.

    Raises:
      UnknownSpeciesError: an atom's element is not among `elements`; names the structure, the first such atom and the elements.
    """
    numbers = np.asarray(numbers)
    species = species_table(elements)[np.clip(numbers, 0, 127)]
    if (species < 0).any():
        from ase.data import chemical_symbols

        atom = int(np.argmax(species < 0))
        known = 0 <= int(numbers[atom]) < len(chemical_symbols)
        name = chemical_symbols[int(numbers[atom])] if known else f"atomic number {numbers[atom]}"
        raise UnknownSpeciesError(f"{where}: atom {atom} is {name}, but the model knows only {', '.join(elements)}")
    return species


def species_table(elements: Sequence[str]) -> np.ndarray:
    """Species index for each atomic number, (128,); -1 for elements that are not among `elements`."""
    table = np.full(128, -1, dtype=np.int32)
    table[atomic_numbers(elements)] = np.arange(len(elements), dtype=np.int32)
    return table


def fit_offsets(counts: np.ndarray, energies: np.ndarray, isolated: np.ndarray | None = None) -> np.ndarray:
    r"""Per-element energy offsets that leave the smallest energies for the networks.

    Least squares of :math:`E_k \approx \sum_s n_{ks} e_s` over the structures. Where compositions do not determine every
    :math:`e_s` (one fixed stoichiometry), the solution closest to the isolated atoms is taken, or, without them, closest to
    one common energy per atom.

    Args:
      counts: atoms of each element in each structure, (B, S).
      energies: total energies in eV, (B,).
      isolated: energies of the isolated atoms in eV, (S,), if known.

    Returns: offsets in eV, (S,), float64.
    """
    counts = np.asarray(counts, dtype=np.float64)
    energies = np.asarray(energies, dtype=np.float64)
    atoms = counts.sum(axis=1)
    base = np.zeros(counts.shape[1]) if isolated is None else np.asarray(isolated, dtype=np.float64)
    mean = np.mean((energies - counts @ base) / atoms)
    start = base + mean
    per_atom = counts / atoms[:, None]
    correction, *_ = np.linalg.lstsq(per_atom, energies / atoms - per_atom @ start, rcond=1e-8)
    return start + correction
