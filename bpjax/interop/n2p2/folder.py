"""A folder of RuNNer or n2p2: ``input.nn``, ``scaling.data`` and ``weights.NNN.data``, as it is, in its own units."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bpjax.elements import atomic_numbers
from bpjax.errors import ConfigError, FormatError, OutputExistsError
from bpjax.interop.n2p2.lines import read_lines
from bpjax.interop.n2p2.settings import Settings, read_settings, settings_text
from bpjax.interop.n2p2.tables import read_scaling, read_weights, scaling_text, weights_count, weights_text
from bpjax.io.atomic import write_error, write_text
from bpjax.networks import MLP

SETTINGS, SCALING = "input.nn", "scaling.data"

_OURS = re.compile(r"(nnp-\d+/)?(input\.nn|scaling\.data|weights\.\d{3}\.data)")

_READ = ("input.nn", "scaling.data", "weights.*.data", "optweights.*.out")
"""Patterns of the files of a potential that are read, whoever wrote them."""


def files_of_potential(path: Path) -> tuple[Path, ...]:
    """The files that are read of a folder, and of the folders of the members of a committee in it."""
    return tuple(found for place in ("", "nnp-*/") for name in _READ for found in sorted(path.glob(place + name)))


def weights_name(element: str) -> str:
    """Name of the file with the weights of an element."""
    return f"weights.{int(atomic_numbers((element,))[0]):03d}.data"


def runner_weights_name(element: str) -> str:
    """Name under which RuNNer writes the best weights of a training."""
    return f"optweights.{int(atomic_numbers((element,))[0]):03d}.out"


@dataclass(frozen=True)
class Folder:
    """A potential as its files say it.

    Attributes:
      settings: content of ``input.nn``.
      scaling: minimum, maximum, mean and sigma of the functions of each element, (D, 4); nan for columns not given.
      weights: parameters of each element's network, float64, under the names that `bpjax.networks` uses.
    """

    settings: Settings
    scaling: dict[str, np.ndarray]
    weights: dict[str, dict]


def read_folder(path: str | os.PathLike[str], *, element_nodes: str = "n2p2") -> Folder:
    """Reads a folder.

    Args:
      path: the folder.
      element_nodes: what ``element_nodes_short C 1 4`` means: "n2p2" as n2p2 2.3 takes it (width 1 for the first layer; of a
        longer file of weights it uses the first ones), "documented" as its manual says (width 4 for layer 1).

    Raises:
      FormatError: a file is missing, or cannot be understood.
      ConfigError: another value of `element_nodes`.
    """
    path = Path(path)
    if element_nodes not in ("n2p2", "documented"):
        raise ConfigError(f"{element_nodes!r} is not one of n2p2, documented", field="element_nodes")
    if not path.is_dir():
        raise FormatError(path, "is a file, expected a folder" if path.exists() else "no such folder")
    settings = read_settings(path / SETTINGS)
    scaling = read_scaling(path / SCALING, settings)
    networks, weights = list(settings.networks), {}
    for n, (element, functions) in enumerate(zip(settings.elements, settings.functions, strict=True)):
        file, size = path / weights_name(element), len(functions)
        written = path / runner_weights_name(element)
        if not file.exists() and written.exists():
            file = written
        elif written.exists() and file.exists() and written.read_bytes().split() != file.read_bytes().split():
            warnings.warn(f"{file} is taken, as RuNNer does; {written.name} beside it differs", stacklevel=2)
        if settings.networks_in_n2p2 and element_nodes == "n2p2":
            networks[n] = _network_in_n2p2(file, networks[n], settings.networks_in_n2p2[n], size)
        weights[element] = read_weights(file, networks[n], size, surplus=networks[n] != settings.networks[n])
    return Folder(replace(settings, networks=tuple(networks), networks_in_n2p2=()), scaling, weights)


def _network_in_n2p2(path: Path, documented: MLP, misread: MLP, size: int) -> MLP:
    """The network that n2p2 makes, where the file of weights is long enough for it; else the one that was meant."""
    found, needed = len(read_lines(path)), weights_count(misread, size)
    if misread == documented or found < needed:
        return documented
    if found > needed:
        warnings.warn(
            f"{path}: {found} weights fit element_nodes_short as documented, but n2p2 makes a smaller network and uses the"
            f" first {needed}; so does this package, unless it reads the folder with element_nodes='documented'",
            stacklevel=2,
        )
    return misread


def folder_files(folder: Folder, comments: Sequence[str] = ()) -> dict[str, str]:
    """Names and contents of the files of a folder.

    Args:
      folder: the potential.
      comments: lines to put at the top of ``input.nn``.
    """
    s = folder.settings
    files = {SETTINGS: settings_text(s, comments), SCALING: scaling_text(s, folder.scaling)}
    for element, network in zip(s.elements, s.networks, strict=True):
        files[weights_name(element)] = weights_text(folder.weights[element], network)
    return files


def write_folder(
    path: str | os.PathLike[str], folder: Folder, *, comments: Sequence[str] = (), overwrite: bool = False
) -> None:
    """Writes a folder that n2p2 reads, whole or not at all.

    Args:
      path: the folder to make; the one that it lies in must exist.
      folder: the potential.
      comments: lines to put at the top of ``input.nn``, such as the units.
      overwrite: whether to replace an earlier potential there.

    Raises:
      OutputExistsError: something is there already, or, with `overwrite`, something else than a potential.
      BpjaxError: the folder cannot be written.
    """
    write_tree(path, folder_files(folder, comments), overwrite=overwrite)


def write_tree(path: str | os.PathLike[str], files: Mapping[str, str], *, overwrite: bool = False) -> None:
    """As `write_folder`, for files by their names inside of the folder; one level of folders may be among the names."""
    target = Path(os.path.realpath(path))
    _check_target(target, overwrite)
    token = secrets.token_hex(4)
    temporary = target.with_name(f".tmp-{token}-{target.name}")
    try:
        temporary.mkdir()
        for name, text in files.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            write_text(temporary / name, text)
        _swap(temporary, target, target.with_name(f".old-{token}-{target.name}"))
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, target: Path, old: Path) -> None:
    """Puts `new` at `target`; what was there goes only when the new one is in its place."""
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_target(target: Path, overwrite: bool) -> None:
    """Raises unless `target` may be written: a slip of the finger must not delete what is no potential."""
    if not target.exists():
        return
    if not overwrite:
        raise OutputExistsError(f"{target} already exists")
    if not target.is_dir():
        raise OutputExistsError(f"{target} is a file, not a folder with a potential")
    for found in sorted(target.rglob("*")):
        name = found.relative_to(target).as_posix()
        if not (_OURS.fullmatch(name) if not found.is_dir() or found.is_symlink() else re.fullmatch(r"nnp-\d+", name)):
            raise OutputExistsError(f"{target} holds {name}, which is no part of a potential; it is not replaced")
