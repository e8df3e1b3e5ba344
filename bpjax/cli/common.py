"""What several commands need: models, precision, and outputs that are not overwritten by accident."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from bpjax.errors import BpjaxError, ConfigError, ModelFileError, OutputExistsError
from bpjax.io.atomic import one_file

if TYPE_CHECKING:
    import ase

    from bpjax.io.label_keys import LabelKeys
    from bpjax.potential.energy import Params, Potential

Units = Annotated[
    Literal["hartree-bohr", "ev-angstrom", "kcal/mol-angstrom"] | None,
    tyro.conf.arg(metavar="{hartree-bohr,ev-angstrom,kcal/mol-angstrom}"),
]
"""Type of the option `units`; the names are those of `bpjax.units.SYSTEMS`."""


def check_outputs(paths: Iterable[Path], overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Refuses output files that exist or cannot be made, before any work is done.

    Args:
      paths: the files.
      overwrite: whether files that are there may be replaced.
      inputs: what is read, and must not be replaced by what is written; of a folder, the files of the potential in it.

    Raises:
      OutputExistsError: a file is there, and `overwrite` was not asked for.
      BpjaxError: it is a folder, or its folder does not exist or may not be written; it is an input, by whatever name, or two
        outputs are one file.
    """
    seen: list[Path] = []
    read = [file for source in inputs for file in (_files_of_potential(source) if source.is_dir() else [source])]
    for path in paths:
        _check_output(path, overwrite)
        check_apart([path], read, "is read")
        check_apart([path], seen, "is written as well")
        seen.append(path)


def _files_of_potential(folder: Path) -> Iterable[Path]:
    from bpjax.interop.n2p2.folder import files_of_potential  # here, because most commands need nothing of it

    return files_of_potential(folder)


def check_apart(paths: Iterable[Path], others: Iterable[Path], what: str) -> None:
    """Refuses files that are one, by whatever names.

    Raises:
      BpjaxError: saying `what` is done with the other.
    """
    for path, other in itertools.product(paths, list(others)):
        if one_file(path, other):
            raise BpjaxError(f"cannot write {path}: it is the file {other}, which {what}")


def _check_output(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise BpjaxError(f"cannot write {path}: it is a folder")
    if os.path.lexists(path) and not overwrite:
        raise OutputExistsError(f"{path} already exists; it was left as it is (use --overwrite to replace it)")
    if not path.parent.is_dir():
        raise BpjaxError(f"cannot write {path}: the folder {path.parent} does not exist")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BpjaxError(f"cannot write {path}: permission denied")


def check_output_folder(path: Path, overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
    """As `check_outputs`, for an output that is a folder. What an existing one holds is looked at when it is replaced."""
    for source in inputs:
        if os.path.lexists(source) and Path(os.path.realpath(source)).is_relative_to(os.path.realpath(path)):
            raise BpjaxError(f"cannot write {path}: {source}, which is read, is in it")
    if os.path.lexists(path) and not path.is_dir():
        raise BpjaxError(f"cannot write {path}: it is a file, not a folder")
    if path.is_dir() and not overwrite:
        raise OutputExistsError(f"{path} already exists; it was left as it is (use --overwrite to replace it)")
    parent = Path(os.path.realpath(path)).parent
    if not parent.is_dir():
        raise BpjaxError(f"cannot write {path}: the folder {path.parent} does not exist")
    if not os.access(parent, os.W_OK):
        raise BpjaxError(f"cannot write {path}: permission denied")


def use_dtype(dtype: str) -> None:
    """Puts JAX into double precision if "float64" is asked for. Must come before any array is made."""
    if dtype == "float64":
        import jax

        jax.config.update("jax_enable_x64", True)


def use_all_cores() -> None:
    """Makes a device of every core of the processor, for dynamics to divide a system among. Must come before any array is made.

    Where JAX runs already, or the environment names a number (JAX_NUM_CPU_DEVICES, XLA_FLAGS), nothing changes.
    """
    import jax

    from bpjax.machine import cores

    named = "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    with suppress(RuntimeError):
        if not named:
            jax.config.update("jax_num_cpu_devices", cores())


def load_model(path: Path, units: str | None = None) -> tuple[Potential, Params]:
    """Reads a model; `bpjax.interop.models.load_model` with the names of the options in its messages."""
    if not path.is_dir():  # the usual case, which needs nothing of n2p2
        from bpjax.potential.store import load

        try:
            return load(path)
        except ModelFileError as error:
            if _is_vibronic(path):
                raise ModelFileError(path, "is a vibronic model of SHARC; bpjax hop takes it") from error
            raise
    from bpjax.interop import models

    with units_option():
        return models.load_model(path, units)


def _is_vibronic(path: Path) -> bool:
    """Whether a file looks like SHARC's ``LVC.template``."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[:200]
    except (OSError, ValueError):
        return False
    return any(line.strip().lower() == "epsilon" for line in lines)


def read_frames(
    path: Path,
    index: str | int = ":",
    units: str | None = None,
    how: FileOptions | None = None,
) -> list[ase.Atoms]:
    """Reads structures; `bpjax.io.structures.read_structures` with the names of the options in its messages."""
    from bpjax.io.structures import read_structures
    from bpjax.progress import patient

    how = how or FileOptions()
    with units_option():
        return read_structures(path, index, units, how.keys(), how.format, how.elements(), patient)


def say_without_cells(model: Path, frames: Sequence[ase.Atoms]) -> None:
    """Says so where structures have no cell and the model was trained on periodic ones alone: a cell was lost somewhere."""
    bare = sum(len(atoms) > 1 and not atoms.pbc.any() for atoms in frames)
    if model.is_dir() or not bare:
        return
    from bpjax.potential.store import provenance

    origin = provenance(model)
    if isinstance(origin, dict) and origin.get("periodic") == "all":
        text = "no structure has a cell" if bare == len(frames) else f"{bare} of {len(frames)} structures have no cell"
        say(f"{text}, and the model was trained on periodic ones alone: was the cell lost?")


def say(line: str) -> None:
    """Prints a remark on standard error."""
    print(f"bpjax: {line}", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """How to read files that do not say everything themselves, for commands that read structures."""

    format: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """ASE's name of the format of IN, where the file does not show it (vasp-xdatcar, lammps-data, ...)."""

    species: Annotated[str | None, tyro.conf.arg(metavar="EL,EL")] = None
    """Elements of the types 1, 2, ... of a LAMMPS file, such as H,O; by default those that its masses say."""

    def elements(self) -> tuple[str, ...] | None:
        """The species one by one."""
        return None if self.species is None else tuple(part.strip() for part in self.species.split(","))

    def keys(self) -> LabelKeys | None:
        """Names of the labels, for commands that take some."""
        return None


@dataclass(frozen=True, kw_only=True)
class KeyOptions(FileOptions):
    """Names of the labels in the files, for commands that read them."""

    energy_key: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the energies, where it is not energy: REF_energy, dft_energy, free_energy, ..."""

    forces_key: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the forces, where it is not forces."""

    stress_key: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the stresses (eV/A^3, positive in tension), where it is not stress."""

    virial_key: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the virials (eV, -V times the stress), to take these."""

    charges_key: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the charges of the atoms, where it is not charges."""

    dipole_key: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the dipoles, where it is not dipole."""

    weight_key: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the weights of the structures in training, where it is not weight; errors do not depend on them."""

    def keys(self) -> LabelKeys | None:
        """The names that are given, None without any."""
        from bpjax.io.label_keys import LabelKeys

        given = {
            name.removesuffix("_key"): value for name, value in vars(self).items() if name.endswith("_key") and value
        }
        return LabelKeys(**given) if given else None


@contextmanager
def units_option() -> Iterator[None]:
    """Calls the units, the format and the species in messages by the names of their options."""
    try:
        yield
    except ConfigError as error:
        if error.field not in ("units", "format", "species"):
            raise
        raise ConfigError(error.message, error.where, f"--{error.field}") from error


def print_table(title: str, header: list[str], rows: list[list[Any]]) -> None:
    """Prints a table on standard output: by rich on a terminal, as aligned plain text elsewhere.

    The first column is text, the others are numbers; None is shown as ``-``.
    """
    cells = [
        ["-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value) for value in row]
        for row in rows
    ]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=escape(title), title_justify="left")
        for number, name in enumerate(header):
            table.add_column(escape(name), justify="right" if number else "left")
        for row in cells:
            table.add_row(*map(escape, row))
        Console().print(table)
        return
    widths = [max(len(row[column]) for row in [header, *cells]) for column in range(len(header))]
    print(title)
    for name, *numbers in [header, *cells]:
        right = (number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True))
        print("  ".join([name.ljust(widths[0]), *right]).rstrip())
