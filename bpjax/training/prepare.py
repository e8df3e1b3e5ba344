"""From files to what a training run needs: checked structures, splits, elements, energy offsets."""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bpjax.descriptors.choose import descriptor_for, lacks_elements
from bpjax.elements import sorted_elements
from bpjax.errors import ConfigError, FormatError, StructureError, UnknownSpeciesError
from bpjax.io.labels import group_of, is_isolated_atom, labels, name_hint, require_labels, weights_of
from bpjax.io.structures import no_collections, read_structures
from bpjax.spec import check_seed, from_spec, from_toml
from bpjax.training.measures import measure
from bpjax.training.options import DataOptions, TrainingOptions
from bpjax.training.outliers import composition_energies, outliers
from bpjax.training.sanity import sanity
from bpjax.training.sanity_report import SanityReport
from bpjax.training.splits import Split, set_aside

# In eV: of one atom by two calculations, and more than what binds an atom in any solid (9 in tungsten).
_SAME_ENERGY, _DEEPEST, _HIGHEST = 1e-3, 15.0, 5.0


@dataclass(frozen=True)
class Dropped:
    """A structure that was read but is not used, and why."""

    path: str
    frame: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: frame {self.frame}: {self.reason}"


@dataclass(frozen=True)
class Structures:
    """All structures of a run, the elements in them, and the energies of isolated atoms found on the way.

    Attributes:
      train, validation, test: the structures.
      elements: those of the training structures, by atomic number.
      isolated: energies of isolated atoms in eV; empty if not known.
      report: what is odd about the data; None if nobody looked.
      dropped: structures that were read but are not used.
    """

    train: Split
    validation: Split
    test: Split
    elements: tuple[str, ...]
    isolated: dict[str, float]
    report: SanityReport | None = None
    dropped: tuple[Dropped, ...] = ()

    def fingerprint(self) -> str:
        """Hash of every structure that is trained or validated on, of its labels and weights."""
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
                *weights_of(atoms),
            ):
                digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
            digest.update(group_of(atoms).encode() + b"\0")
        digest.update(repr(sorted(self.isolated.items())).encode())
        return digest.hexdigest()


def read_split(paths: Sequence[str], folder: Path, options: DataOptions) -> tuple[Split, tuple[Dropped, ...]]:
    """Reads files, relative to `folder`, in order, as the options say (`units`, `unlabelled`, `keys`, `format`, `species`).

    Returns: the structures, and those that were dropped.
    """
    unlabelled = options.unlabelled
    frames, sources, dropped = [], [], []
    for name in paths:
        path = folder / name
        found = read_structures(path, ":", options.units, options.keys, options.format, options.species or None)
        if unlabelled == "refuse":
            require_labels(found, path, forces=True, without_forces=is_isolated_atom)
        for n, atoms in enumerate(found):
            lacking = [] if unlabelled == "refuse" else _lacking(atoms)
            if unlabelled == "keep" and len(lacking) == 2:
                raise StructureError("has neither energy nor forces", path, n)
            if unlabelled == "drop" and lacking:
                hints = "".join(name_hint(atoms, name) for name in lacking)
                dropped.append(Dropped(str(path), n, f"no {' and no '.join(lacking)}{hints}"))
                continue
            frames.append(atoms)
            sources.append((str(path), n))
    return Split(tuple(frames), tuple(sources)), tuple(dropped)


@no_collections()
def prepare(options: DataOptions, folder: Path, seed: int, batch_size: int | None = None) -> Structures:
    """Reads, checks and splits the data of a run.

    Args:
      options: the `[data]` section.
      folder: what file names are relative to.
      seed: of the split.
      batch_size: structures of a training step, if known, for the report.

    Raises:
      FormatError, StructureError: a file or structure that cannot be used; see `bpjax.io.structures`.
      ConfigError: too few structures to set some aside, or an energy for an element that does not occur.
      ValueError: `seed` is none.
    """
    check_seed(seed)
    everything, dropped = read_split(options.train, folder, options)
    train, isolated = _without_atoms(everything, dropped, options)
    elements = sorted_elements([s for a in train.frames for s in set(a.get_chemical_symbols())])
    _check_isolated(isolated, elements)
    _check_cohesion(train, isolated, options)
    validation, more = read_split(options.validation, folder, options)
    test, yet_more = read_split(options.test, folder, options)
    validation, test = (_less_isolated(split, isolated) for split in (validation, test))
    for split in (validation, test):
        _check_elements(split, elements)
    dropped += more + yet_more
    known = {e: isolated[e] for e in elements if e in isolated}
    if options.outliers != "keep":
        train, validation, odd = _without_outliers(train, validation, elements, known, options)
        dropped += odd
        _check_complete(train, elements, "data.outliers")
    if options.test_fraction:
        train, test = set_aside(train, options.test_fraction, [seed, 1], options.split, "test")
    if not options.validation:
        share = options.validation_fraction / (1 - options.test_fraction)
        train, validation = set_aside(train, share, seed, options.split)
    _check_complete(train, elements, "data.split")
    report = sanity(
        {"train": train, "validation": validation, "test": test},
        elements,
        isolated=known,
        max_force=options.max_force,
        batch_size=batch_size,
    )
    certain = [finding for finding in report.findings if finding.certain]
    if certain and options.contradictions == "refuse":
        message = f'{certain[0].message}; contradictions = "keep" trains on them as they are'
        raise ConfigError(message, options.train[0], "data.contradictions")
    return Structures(train, validation, test, elements, known, report, dropped)


@contextlib.contextmanager
def named_in(path: Path, folder: Path) -> Iterator[None]:
    """Adds to errors about data, whose names are relative to `folder`, which training file and which line of it names them."""
    try:
        yield
    except (FormatError, StructureError, ConfigError) as error:
        if isinstance(error, ConfigError) and error.where is None:
            raise ConfigError(error.message, str(path), error.field) from error
        about = error.where if isinstance(error, ConfigError) else error.path
        if about is not None and Path(about) != path:
            line = _line_naming(path.read_text(), Path(about), folder)
            error.named_in = str(path) if line is None else f"{path}: line {line}"
        raise


_QUOTED = re.compile(r"""#.*|"((?:[^"\\]|\\.)*)"|'([^']*)'""")
"""A comment of TOML, or a text in quotes."""


def _line_naming(text: str, about: Path, folder: Path) -> int | None:
    """The line of a training file that has the name of a file, in quotes."""
    for number, line in enumerate(text.splitlines(), 1):
        names = [found[1] or found[2] for found in _QUOTED.finditer(line)]
        if any(name and folder / name == about for name in names):
            return number
    return None


def read_run(path: Path, data_folder: Path | None = None) -> tuple[TrainingOptions, Structures]:
    """Options and structures of a training file. A descriptor without `elements` gets those of the data.

    Args:
      path: the file.
      data_folder: what names of data are relative to; None for the folder of the file.

    Raises:
      FormatError, StructureError: a file or structure that cannot be used.
      ConfigError: an option that is unknown, missing, of the wrong type or out of range.
    """
    folder = data_folder or path.parent
    spec = from_toml(dict[str, Any], path)
    asked = spec.get("descriptor")
    complete = not lacks_elements(asked)
    rest = {name: section for name, section in spec.items() if complete or name != "descriptor"}
    options = from_spec(TrainingOptions, rest, str(path))
    with named_in(path, folder):
        structures = prepare(options.data, folder, options.optimizer.seed, _batch_size(options))
    if complete:
        return options, structures
    descriptor = descriptor_for(asked, structures.elements, str(path), "descriptor")
    return replace(options, descriptor=descriptor), structures


def _batch_size(options: TrainingOptions) -> int | None:
    return getattr(options.optimizer, "batch_size", None)  # not every optimizer takes batches


def _lacking(atoms) -> list[str]:
    """Which of energy and forces a structure has not."""
    label = labels(atoms)
    needed = ("energy",) if is_isolated_atom(atoms) else ("energy", "forces")
    return [name for name in needed if getattr(label, name) is None]


def _without_atoms(
    everything: Split, dropped: Sequence[Dropped], options: DataOptions
) -> tuple[Split, dict[str, float]]:
    """The structures that are no isolated atoms, and the energies of those.

    Raises:
      StructureError: nothing but isolated atoms, two energies of one of them, or one that is unlike those of the structures.
    """
    alone = [is_isolated_atom(atoms) for atoms in everything.frames]
    train = everything.pick([n for n, is_alone in enumerate(alone) if not is_alone])
    if not len(train):
        others = f"; {len(dropped)} are left out, the first for: {dropped[0].reason}" if dropped else ""
        raise StructureError(f"holds no structure with labels but isolated atoms{others}", options.train[0])
    isolated: dict[str, float] = {}
    first: dict[str, int] = {}
    for n in np.flatnonzero(alone).tolist():
        element, energy = everything.frames[n].get_chemical_symbols()[0], _energy(everything, n)
        if abs(isolated.setdefault(element, energy) - energy) > _SAME_ENERGY:
            path, frame = everything.sources[first[element]]
            message = f"of the isolated {element} atom is {energy:.6g} eV, but {isolated[element]:.6g} in {path}: frame {frame}"
            raise StructureError(message, *everything.sources[n], "energy")
        first.setdefault(element, n)
    for element, energy in options.isolated.items():
        if abs(isolated.setdefault(element, energy) - energy) > _SAME_ENERGY:
            message = (
                f"of the isolated {element} atom is {isolated[element]:.6g} eV, but data.isolated says {energy:.6g}"
            )
            raise StructureError(message, *everything.sources[first[element]], "energy")
    return train, isolated


def _less_isolated(split: Split, isolated: dict[str, float]) -> Split:
    """The structures of a further split that are no isolated atoms; those must have the energies that are known.

    Raises:
      StructureError: another energy, or nothing but isolated atoms.
    """
    alone = [is_isolated_atom(atoms) for atoms in split.frames]
    for n in np.flatnonzero(alone).tolist():
        element, energy = split.frames[n].get_chemical_symbols()[0], _energy(split, n)
        if abs(isolated.get(element, energy) - energy) > _SAME_ENERGY:
            message = (
                f"of the isolated {element} atom is {energy:.6g} eV, but {isolated[element]:.6g} where it is trained on"
            )
            raise StructureError(message, *split.sources[n], "energy")
    if len(split) and all(alone):
        raise StructureError("holds no structure but isolated atoms", split.sources[0][0])
    return split.pick([n for n, is_alone in enumerate(alone) if not is_alone])


def _check_cohesion(train: Split, isolated: dict[str, float], options: DataOptions) -> None:
    """Atoms in the structures must be about as deep as the isolated ones: no bond is worth more than some eV."""
    if not isolated or options.contradictions == "keep":
        return
    energies = [(labels(atoms).energy, atoms.get_chemical_symbols()) for atoms in train.frames]
    bound = [
        (energy - sum(isolated[s] for s in symbols)) / len(symbols)
        for energy, symbols in energies
        if energy is not None and set(symbols) <= set(isolated)
    ]
    if not bound or -_DEEPEST <= np.median(bound) <= _HIGHEST:
        return
    known = ", ".join(f"{element} {energy:.6g}" for element, energy in isolated.items())
    raise ConfigError(
        f"energies of isolated atoms ({known} eV) are {abs(np.median(bound)):.4g} eV/atom from those of the structures: are they "
        'of another calculation, or without the core? contradictions = "keep" takes them as they are',
        options.train[0],
        "data.isolated",
    )


def _without_outliers(
    train: Split, validation: Split, elements: tuple[str, ...], isolated: dict[str, float], options: DataOptions
) -> tuple[Split, Split, tuple[Dropped, ...]]:
    """Training and validation structures less those that the first say are outliers; or an error that names one."""
    usual = measure(train.frames, elements)
    energies = np.array([isolated[e] for e in elements]) if isolated else None
    offsets = composition_energies(usual, energies)
    kept, dropped = [], []
    for split in (train, validation):
        measured = usual if split is train or not len(split) else measure(split.frames, elements)
        odd = outliers(measured, usual, offsets, options.max_force) if len(split) else {}
        for n, reason in odd.items():
            if options.outliers == "refuse":
                raise StructureError(f"{reason}; data.outliers says to refuse it", *split.sources[n])
            dropped.append(Dropped(*split.sources[n], reason))
        kept.append(split.pick([n for n in range(len(split)) if n not in odd]))
    if not len(kept[0]) or (len(validation) and not len(kept[1])):
        raise ConfigError("all structures are above max_force", field="data.max_force")
    return kept[0], kept[1], tuple(dropped)


def _check_isolated(isolated: dict[str, float], elements: tuple[str, ...]) -> None:
    if isolated and not set(isolated) >= set(elements):
        missing = ", ".join(sorted(set(elements) - set(isolated)))
        known = ", ".join(isolated)
        message = f"energies of isolated atoms are known of {known}, not of {missing}; give all elements or none"
        raise ConfigError(f"{message} (here, or as single atoms in the files)", field="data.isolated")


def _check_complete(train: Split, elements: tuple[str, ...], field: str) -> None:
    left = {s for a in train.frames for s in set(a.get_chemical_symbols())}
    if set(elements) - left:
        raise ConfigError(
            f"leaves no structure with {', '.join(sorted(set(elements) - left))} to train on", field=field
        )


def _check_elements(split: Split, elements: tuple[str, ...]) -> None:
    for structure, (path, frame) in zip(split.frames, split.sources, strict=True):
        unknown = sorted(set(structure.get_chemical_symbols()) - set(elements))
        if unknown:
            raise UnknownSpeciesError(
                f"{path}: frame {frame}: {', '.join(unknown)} does not occur in the training structures"
            )


def _energy(split: Split, n: int) -> float:
    energy = labels(split.frames[n]).energy
    if energy is None:
        raise StructureError("an isolated atom needs an energy", *split.sources[n], "energy")
    return energy
