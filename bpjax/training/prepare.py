"""From files to what a training run needs: checked structures, splits, elements, energy offsets."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bpjax.descriptors.choose import descriptor_for
from bpjax.elements import sorted_elements
from bpjax.errors import ConfigError, StructureError, UnknownSpeciesError
from bpjax.io.structures import group_of, labels, read_structures, require_labels
from bpjax.spec import from_spec, from_toml, registered
from bpjax.training.options import DataOptions, TrainingOptions


@dataclass(frozen=True)
class Split:
    """Structures with the file and frame number of each."""

    frames: tuple
    sources: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return len(self.frames)

    def pick(self, chosen: Sequence[int]) -> "Split":
        """The structures with these indices."""
        return Split(tuple(self.frames[n] for n in chosen), tuple(self.sources[n] for n in chosen))


@dataclass(frozen=True)
class Structures:
    """All structures of a run, the elements in them, and the energies of isolated atoms found on the way."""

    train: Split
    validation: Split
    test: Split
    elements: tuple[str, ...]
    isolated: dict[str, float]

    def fingerprint(self) -> str:
        """Hash of every structure and label that is trained or validated on."""
        digest = hashlib.sha256()
        for atoms in (*self.train.frames, *self.validation.frames):
            label = labels(atoms)
            for array in (
                atoms.numbers,
                atoms.positions,
                atoms.cell.array,
                atoms.pbc,
                label.energy,
                label.forces,
                label.stress,
            ):
                digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def read_split(paths: Sequence[str], folder: Path, units: str | None = None) -> Split:
    """Reads files, relative to `folder`, in order; energies and forces are required of every structure.

    `units` are those of RuNNer and n2p2 files; see `bpjax.io.structures.read_structures`.
    """
    frames, sources = [], []
    for name in paths:
        path = folder / name
        found = read_structures(path, units=units)
        require_labels(found, path, forces=not all(_is_isolated_atom(a) for a in found))
        frames += found
        sources += [(str(path), n) for n in range(len(found))]
    return Split(tuple(frames), tuple(sources))


def prepare(options: DataOptions, folder: Path, seed: int) -> Structures:
    """Reads and splits the data of a run.

    Args:
      options: the `[data]` section.
      folder: what file names are relative to.
      seed: of the split.

    Raises:
      FormatError, StructureError: a file or structure that cannot be used; see `bpjax.io.structures`.
      ConfigError: too few structures to set some aside, or an energy for an element that does not occur.
    """
    everything = read_split(options.train, folder, options.units)
    atoms = [n for n, a in enumerate(everything.frames) if _is_isolated_atom(a)]
    train = everything.pick([n for n in range(len(everything)) if n not in set(atoms)])
    if not len(train):
        raise StructureError("holds no structure but isolated atoms", options.train[0])
    isolated = {everything.frames[n].get_chemical_symbols()[0]: _energy(everything, n) for n in atoms}
    isolated.update(options.isolated)
    elements = sorted_elements([s for a in train.frames for s in set(a.get_chemical_symbols())])
    if isolated and not set(isolated) >= set(elements):
        missing = ", ".join(sorted(set(elements) - set(isolated)))
        raise ConfigError(f"no energy for {missing}; give all elements or none", field="data.isolated")
    if options.validation:
        validation = read_split(options.validation, folder, options.units)
    else:
        train, validation = set_aside(train, options.validation_fraction, seed)
    test = read_split(options.test, folder, options.units)
    for split in (validation, test):
        for structure, (path, frame) in zip(split.frames, split.sources, strict=True):
            unknown = sorted(set(structure.get_chemical_symbols()) - set(elements))
            if unknown:
                raise UnknownSpeciesError(
                    f"{path}: frame {frame}: {', '.join(unknown)} does not occur in the training structures"
                )
    return Structures(train, validation, test, elements, {e: isolated[e] for e in elements if e in isolated})


def read_run(path: Path) -> tuple[TrainingOptions, Structures]:
    """Options and structures of a training file. A descriptor without `elements` gets those of the data.

    Raises:
      FormatError, StructureError: a file or structure that cannot be used.
      ConfigError: an option that is unknown, missing, of the wrong type or out of range.
    """
    spec = from_toml(dict[str, Any], path)
    asked = spec.get("descriptor")
    cls = registered().get(asked.get("type", "")) if isinstance(asked, dict) else None
    if cls is None or "elements" in asked or "elements" not in getattr(cls, "__dataclass_fields__", {}):
        options = from_spec(TrainingOptions, spec, str(path))
        return options, prepare(options.data, path.parent, options.optimizer.seed)
    rest = {name: section for name, section in spec.items() if name != "descriptor"}
    options = from_spec(TrainingOptions, rest, str(path))
    structures = prepare(options.data, path.parent, options.optimizer.seed)
    descriptor = descriptor_for(asked, structures.elements, str(path), "descriptor")
    return replace(options, descriptor=descriptor), structures


def set_aside(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Sets a random share of each group aside; at least one structure altogether stays on either side."""
    if len(split) < 2:
        raise ConfigError(
            "needs at least 2 structures to set one aside for validation", split.sources[0][0], "data.train"
        )
    rng = np.random.default_rng(seed)
    groups = np.array([group_of(a) for a in split.frames])
    aside: list[int] = []
    for group in dict.fromkeys(groups.tolist()):
        members = rng.permutation(np.flatnonzero(groups == group))
        aside += members[: round(fraction * len(members))].tolist()
    if not aside:
        aside = [int(rng.integers(len(split)))]
    kept = sorted(set(range(len(split))) - set(aside))
    return split.pick(kept), split.pick(sorted(aside))


def _energy(split: Split, n: int) -> float:
    energy = labels(split.frames[n]).energy
    if energy is None:
        raise StructureError("an isolated atom needs an energy", *split.sources[n], "energy")
    return energy


def _is_isolated_atom(atoms) -> bool:
    return len(atoms) == 1 and (not atoms.pbc.any() or group_of(atoms).lower().replace("_", "") == "isolatedatom")
