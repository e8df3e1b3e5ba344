"""Evaluation of structures from the host: padding, neighbour lists, batches, checks, and energies in float64.

`predict` is the traced function; this is what stands around it in the ASE calculator and on the command line. Shapes
come from a short ladder (`bpjax.neighbors.bucket`) and shapes that are already compiled are preferred, so that nothing
is compiled again while atoms move or when a similar structure comes.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ase
import jax
import jax.numpy as jnp
import numpy as np

from bpjax.elements import species_of
from bpjax.errors import ConfigError
from bpjax.neighbors import bucket
from bpjax.potential.blocks import fastest_block
from bpjax.potential.energy import Params, Potential, require_potential
from bpjax.potential.extrapolation import Extrapolation, extrapolations_of
from bpjax.potential.forces import predict, predict_members
from bpjax.potential.preparation import Place, Prepared, check, groups_of_like_size, prepare
from bpjax.precision import name_of_dtype, precision
from bpjax.progress import ProgressFn, silent
from bpjax.system import Neighbors, Prediction, System

SKIN = 0.5
"""Width in A of the shell beyond the cutoff that lets a neighbour list live until an atom has moved by half of it."""

THICKEST = 10.0
"""Widest skin in A: there are a thousand times as many pairs in it as are needed."""

ROOM = 1.4
"""A compiled shape serves smaller structures too, as long as no size is larger than needed by more than this factor."""

HEADROOM = 1.1
"""Neighbour slots of a new shape, relative to what is needed at present: other atoms will come close."""

KEPT, KEPT_BYTES = 64, 2**28
"""Number and memory of neighbour lists of earlier calls; the last one is always kept."""

ATOMS_PER_CALL = 8192
"""Atoms, padding included, that one call of the batched function takes."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model says about one structure; for a committee, the mean over its members.

    Attributes:
      energy: total energy in eV, offsets included.
      atomic_energies: (N,) in eV, offsets included; their sum is `energy`.
      forces: (N, 3) in eV/A.
      stress: (3, 3) in eV/A^3, positive in tension (ASE's sign); None unless all directions are periodic.
      virial: (3, 3) in eV, symmetric, minus the derivative of the energy with the strain; of any structure.
      outside: (N,) number of features of each atom outside the range of training; None if nobody watched.
      energy_spread: standard deviation of the total energy over the members (divided by their number, not by one less), in eV;
        None for a single network.
      forces_spread: (N, 3) the same for each component of the forces, in eV/A.
      energy_noise: standard deviation of the noise of the total energy that the model expects of its labels, in eV; None for a
        model without `Potential.noise`.
      forces_noise: (N,) the same for each component of the force on an atom, in eV/A.
    """

    energy: float
    atomic_energies: np.ndarray
    forces: np.ndarray
    stress: np.ndarray | None
    outside: np.ndarray | None = None
    virial: np.ndarray | None = None
    energy_spread: float | None = None
    forces_spread: np.ndarray | None = None
    energy_noise: float | None = None
    forces_noise: np.ndarray | None = None


class Evaluator:
    """Evaluates a model on structures of ASE.

    Args:
      model: the potential.
      params: its arrays.
      dtype: "float32" or "float64", whatever the precision of JAX outside.
      skin: in A; see `SKIN`. Results do not depend on it beyond rounding. Used by `evaluate` only.
      watch: also count features outside the range of training (`Evaluation.outside`).

    Several threads may use one evaluator; nothing of one call is seen by another but lists that serve it as well.

    Raises:
      ConfigError: another dtype, or a negative skin.
    """

    def __init__(
        self, model: Potential, params: Params, dtype: Any = "float32", *, skin: float = SKIN, watch: bool = False
    ):
        require_potential(model)
        self.dtype = name_of_dtype(dtype)
        if isinstance(skin, bool) or not (isinstance(skin, int | float | np.number) and 0 <= skin <= THICKEST):
            raise ConfigError(f"must be a length in A, from 0 to {THICKEST:g}, got {skin!r}", field="skin")
        self.model, self.skin, self.watch = model, skin, watch
        with precision(self.dtype):
            self.params = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), params)
        self._shapes: list[tuple[int, ...]] = []
        self._kept: tuple[Prepared, ...] = ()
        self._compilations = 0
        self._searches = 0

    def __getstate__(self) -> dict[str, Any]:
        """Without the lists of earlier calls, which are many times as large as the rest."""
        return {**self.__dict__, "_kept": ()}

    @property
    def compilations(self) -> int:
        """How often a call had to be compiled first."""
        return self._compilations

    @property
    def searches(self) -> int:
        """How often `evaluate` searched for neighbours."""
        return self._searches

    def evaluate(
        self, atoms: ase.Atoms, path: str | os.PathLike[str] | None = None, frame: int | None = None
    ) -> Evaluation:
        """Energy, forces and stress of one structure.

        The neighbour lists of the last calls (see `KEPT`) are used again for a structure with the same cell of
        which no atom is farther from the place that it had than half the skin.

        Args:
          atoms: the structure; labels and calculator are ignored.
          path: its file, for messages.
          frame: its 0-based number, for messages.

        Raises:
          StructureError: zero atoms, numbers that are not finite, a periodic cell without volume, two atoms at one
            place, or a result that is not finite.
          UnknownSpeciesError: an element that the model does not know.
        """
        place = Place(path, frame)
        kept = self._prepared(atoms, place)
        dtype = kept.enough(self.dtype)
        system = kept.system(atoms, self.model.elements, dtype)
        return _evaluation(self.model, atoms, self._call(_single, system, kept.neighbors, dtype), place)

    def extrapolations(self, atoms: ase.Atoms, structure: int | None = None) -> list[Extrapolation]:
        """Every feature outside the range of training: atom, function, value, range; also where `watch` is off.

        Evaluates the descriptor once more: for structures of which `Evaluation.outside` says that there is something to tell.

        Args:
          atoms: the structure.
          structure: its number, for the warnings and for messages.

        Raises:
          StructureError, UnknownSpeciesError: see `evaluate`.
        """
        kept = self._prepared(atoms, Place(None, structure))
        return extrapolations_of(self.model, self.params, atoms, kept, self.dtype, structure)

    def _prepared(self, atoms: ase.Atoms, place: Place) -> Prepared:
        """The checked structure with a padded neighbour list: the last one, or a new one."""
        check(atoms, self.model.elements, place)
        kept = self._kept  # no other thread changes this tuple
        serving = next((one for one in kept if one.serves(atoms, self.skin)), None)
        if serving is None:
            self._searches += 1
            serving = prepare(atoms, self.model.cutoff + self.skin, place)
            serving = serving.padded(*self._shape(serving.size, HEADROOM))
        if not kept or kept[0] is not serving:
            others = [one for one in kept if one is not serving]
            total = itertools.accumulate((one.nbytes for one in others), initial=serving.nbytes)
            room = min(sum(size <= KEPT_BYTES for size in total) - 1, KEPT - 1)
            self._kept = (serving, *others[: max(room, 0)])
        return serving

    def evaluate_many(
        self,
        frames: Sequence[ase.Atoms],
        progress: ProgressFn = silent,
        path: str | os.PathLike[str] | None = None,
    ) -> list[Evaluation]:
        """Energies, forces and stresses of many structures, evaluated in batches of similar size.

        All structures are checked before the first is evaluated.

        Args:
          frames: the structures.
          progress: shows how many are done.
          path: their file, for messages.

        Returns: the evaluations, in the order of the frames.

        Raises:
          StructureError: see `evaluate`; the message says which frame.
          UnknownSpeciesError: see `evaluate`.
        """
        sizes, wide = [], []
        for number, atoms in enumerate(frames):
            place = Place(path, number)
            check(atoms, self.model.elements, place)
            kept = prepare(atoms, self.model.cutoff, place)
            sizes.append(kept.size)
            wide += [number] if kept.wide and self.dtype == "float32" else []
        results: list[Evaluation | None] = [None] * len(frames)
        with progress(len(frames), "structures") as bar:
            for number in wide:  # in double precision, one by one
                results[number] = self.evaluate(frames[number], path, number)
                bar.update(1)
            rest = np.setdiff1d(np.arange(len(frames)), wide)
            for chosen, (rows, capacity, slots) in self._chunks(np.array(sizes, dtype=int).reshape(-1, 2)[rest]):
                chunk = rest[chosen].tolist()
                batch = [self._padded(frames[number], capacity, slots, Place(path, number)) for number in chunk]
                batch += batch[-1:] * (rows - len(batch))
                systems, neighbors = jax.tree.map(lambda *leaves: np.stack(leaves), *batch)
                found = self._call(_batched, systems, neighbors, self.dtype)
                for row, number in enumerate(chunk):
                    one = jax.tree.map(lambda leaf, row=row: leaf[row], found)
                    results[number] = _evaluation(self.model, frames[number], one, Place(path, number))
                bar.update(len(chunk))
        return [result for result in results if result is not None]

    def _chunks(self, sizes: np.ndarray) -> Iterator[tuple[list[int], tuple[int, ...]]]:
        """Numbers of the frames of each call, and the shape (frames, atoms, slots) of the call."""
        for group in groups_of_like_size(sizes):
            atoms, slots = (int(size) for size in sizes[group].max(axis=0))
            calls = min(len(group), -(-len(group) * bucket(atoms) // ATOMS_PER_CALL))
            frames = -(-len(group) // calls)
            shape = self._shape((frames, atoms, slots))
            for start in range(0, len(group), frames):
                yield group[start : start + frames], shape

    def _padded(self, atoms: ase.Atoms, capacity: int, slots: int, place: Place) -> tuple[System, Neighbors]:
        kept = prepare(atoms, self.model.cutoff, place).padded(capacity, slots)
        return kept.system(atoms, self.model.elements, self.dtype), kept.neighbors

    def _shape(self, sizes: tuple[int, ...], headroom: float = 1.0) -> tuple[int, ...]:
        """The smallest compiled shape ([frames,] atoms, slots) that holds `sizes` without much waste, or a new one."""
        *frames, atoms, slots = sizes
        new = (*(bucket(count, 1) for count in frames), bucket(atoms), bucket(int(headroom * slots)))
        fitting = [
            shape
            for shape in self._shapes
            if len(shape) == len(sizes)
            and all(size <= has <= ROOM * most for size, has, most in zip(sizes, shape, new, strict=True))
        ]
        if fitting:
            return min(fitting, key=math.prod)
        self._shapes.append(new)
        return new

    def _call(self, function: Any, system: System, neighbors: Neighbors, dtype: str) -> Prediction:
        before = _traces.count
        with precision(dtype):
            result = function(self.model, self.watch, self.params, system, neighbors)
        self._compilations += _traces.count - before
        return jax.tree.map(lambda leaf: np.asarray(leaf, dtype=np.float64), result)


class _Traces:
    """Counts how often the functions below are traced, which is how often they are compiled."""

    count = 0


_traces = _Traces()


# Shared by all evaluators: a second one for the same model finds everything compiled.
@partial(jax.jit, static_argnums=(0, 1))
def _single(model, watch, params, system, neighbors):
    _traces.count += 1
    return _predictor(model)(model, params, system, neighbors, watch=watch)


@partial(jax.jit, static_argnums=(0, 1))
def _batched(model, watch, params, systems, neighbors):
    _traces.count += 1
    frames, atoms = systems.species.shape
    # On a CPU only as many structures side by side as fill a block; the intermediates then stay in the cache.
    block = fastest_block(model.descriptor, neighbors.mask.shape[-1])
    together = min(frames, block // atoms)
    return jax.lax.map(
        lambda one: _predictor(model)(model, params, *one, watch=watch),
        (systems, neighbors),
        batch_size=together if together > 1 else None,  # a batch, even of one, would compute all elements for each atom
    )


def _predictor(model: Potential) -> Callable[..., Prediction]:
    """`predict`, or for a committee what gives each member on its own."""
    return predict if model.members is None else predict_members


def _evaluation(model: Potential, atoms: ase.Atoms, prediction: Prediction, place: Place) -> Evaluation:
    """Strips the padding, adds the offsets in float64, refuses what is not finite; mean and spread of a committee."""
    if model.members is None:
        prediction = jax.tree.map(lambda leaf: leaf[None], prediction)
    _, E_i, forces, virial, outside, noise = prediction
    E_i = E_i[:, : len(atoms)] + model.offset_energies(species_of(atoms.numbers, model.elements))
    forces = forces[:, : len(atoms)]
    for field, value in (("energy", E_i), ("forces", forces), ("stress", virial)):
        if not np.isfinite(value).all():
            raise place.error("the model gives a result that is not finite here", field)
    W = virial.mean(axis=0)
    W = 0.5 * (W + W.T)
    stress = -W / atoms.cell.volume if atoms.pbc.all() else None
    spread = (None, None)
    if model.members is not None:
        spread = float(E_i.sum(axis=1).std()), forces.std(axis=0)
    mean = E_i.mean(axis=0)
    outside = None if outside is None else outside[0, : len(atoms)].astype(np.int64)
    if noise is not None:
        noise = _noise(model, noise[:, : len(atoms)])
    return Evaluation(
        float(mean.sum()), mean, forces.mean(axis=0), stress, outside, W, *spread, *(noise or (None, None))
    )


def _noise(model: Potential, noise: np.ndarray) -> tuple[float, np.ndarray]:
    """Widths of energy and forces, (members, N, 2) -> () and (N,); the squares of members are averaged."""
    assert model.noise is not None
    atoms = np.float64(noise.shape[1])
    energy = model.noise.of_mean(np.mean(np.exp(2 * noise[..., 0])), atoms)
    forces = np.sqrt(np.mean(model.noise.of_forces(noise) ** 2, axis=0))
    return float(energy), np.asarray(forces, np.float64)
