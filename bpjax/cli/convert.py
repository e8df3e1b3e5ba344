"""``bpjax convert``: potentials and structures from and to n2p2 and RuNNer, and the ANI potentials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from bpjax.cli.common import (
    KeyOptions,
    Units,
    check_output_folder,
    check_outputs,
    load_model,
    read_frames,
    say,
    units_option,
    use_dtype,
)
from bpjax.errors import BpjaxError, ConfigError, StructureError

if TYPE_CHECKING:
    from bpjax.potential.energy import Params, Potential

_MODEL, _RUNNER, _EXTXYZ = ".bpjax", ".data", (".extxyz", ".xyz")

_TORCHANI = ("ani1x", "ani1ccx", "ani2x")
"""Names of published models, those of `bpjax.interop.torchani.MODELS`."""


@dataclass(frozen=True)
class Options(KeyOptions):
    """Convert potentials and structures from and to the files of n2p2 and RuNNer, and take over ANI potentials.

    What IN is decides what OUT can be:

      a folder with input.nn, scaling.data, weights.*.data  ->  a model, NAME.bpjax
      a model, NAME.bpjax                                   ->  such a folder, for n2p2, LAMMPS and CP2K
      structures in any format that ASE reads               ->  a RuNNer data file, NAME.data
      a RuNNer data file (input.data)                       ->  extended XYZ, NAME.extxyz, with energies and forces
      ani1x, ani1ccx or ani2x                               ->  a model, NAME.bpjax, from an installed TorchANI

    A committee is a folder with the folders nnp-1, nnp-2, ...

    Example: bpjax convert nnp model.bpjax --units hartree-bohr
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")]
    """What to convert."""

    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Where the result goes: NAME.bpjax, a folder, NAME.data or NAME.extxyz."""

    units: Units = None
    """Units of the files of n2p2 or RuNNer, which do not say it. Required, except for a model that is to become a folder: that
    is written in eV and angstrom unless asked otherwise."""

    member: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Take only this network of an ANI potential, counted from 0, and not all eight as a committee."""

    reader: Annotated[Literal["n2p2", "lammps", "cp2k", "runner"], tyro.conf.arg(name="for")] = "n2p2"
    """The program that is to read a folder made of a model. n2p2 (and LAMMPS, by n2p2) read most; what another one cannot read,
    or passes over without a word, is an error if it is named here, and a remark otherwise."""

    missing_forces: Literal["refuse", "zeros"] = "refuse"
    """What a RuNNer data file says of structures that have an energy and no forces: it must say something, and n2p2, RuNNer and
    bpjax take zeros for labels. They are refused unless zeros are asked for."""

    overwrite: bool = False
    """Replace OUT if it exists."""


def run(options: Options) -> None:
    """Finds out what IN is and converts it."""
    source, output = options.source, options.output
    published = str(source) in _TORCHANI and not source.exists()
    if options.member is not None and not published:
        raise ConfigError(f"is for {', '.join(_TORCHANI)} only", field="--member")
    if published:
        if output.suffix != _MODEL:
            raise BpjaxError(f"cannot convert {source} to {output}: an ANI potential becomes a file NAME.bpjax")
        torchani_to_model(options)
    elif source.is_dir():
        if output.suffix != _MODEL:
            raise _unfit(source, "a folder of n2p2 or RuNNer becomes a file NAME.bpjax", output)
        folder_to_model(options)
    elif source.suffix == _MODEL:
        if output.suffix in (_MODEL, _RUNNER, *_EXTXYZ):
            raise _unfit(source, "a model becomes a folder of n2p2", output)
        model_to_folder(options)
    else:
        if output.suffix not in (_RUNNER, *_EXTXYZ):
            raise _unfit(source, "structures become a file NAME.data or NAME.extxyz", output)
        convert_structures(options)


def _unfit(source: Path, rule: str, output: Path) -> BpjaxError:
    if not source.exists():
        return BpjaxError(f"{source}: no such file or folder")
    return BpjaxError(f"cannot convert {source} to {output}: {rule}")


def folder_to_model(options: Options) -> None:
    """A folder of n2p2 or RuNNer as a model file, in float64."""
    check_outputs([options.output], options.overwrite, [options.source])
    use_dtype("float64")
    model, params = load_model(options.source, options.units)
    _save(options, model, params, {"units": options.units}, {})


def torchani_to_model(options: Options) -> None:
    """A published potential of TorchANI as a model file; weights keep their type."""
    check_outputs([options.output], options.overwrite, [options.source])

    from importlib.metadata import version

    from bpjax.interop.torchani import load_torchani

    model, params = load_torchani(str(options.source), options.member)
    _save(options, model, params, {"member": options.member}, {"torchani": version("torchani")})


def _save(options: Options, model: Potential, params: Params, origin: dict, versions: dict[str, str]) -> None:
    """Writes the model file and says so."""
    import bpjax
    from bpjax.potential.store import save

    origin = {"converted_from": str(options.source), **origin}
    save(options.output, model, params, {**origin, "versions": {"bpjax": bpjax.__version__, **versions}})
    members = "" if model.members is None else f", a committee of {model.members}"
    print(f"wrote {options.output}: {', '.join(model.elements)}; cutoff {model.cutoff:.6g} A{members}")


def model_to_folder(options: Options) -> None:
    """A model file as a folder of n2p2, and what to type in LAMMPS."""
    check_output_folder(options.output, options.overwrite, [options.source])
    use_dtype("float64")  # numbers of the file are to be written as they are
    model, params = load_model(options.source)

    from bpjax.interop.n2p2 import write_potential

    units = options.units or "ev-angstrom"
    remarks = write_potential(options.output, model, params, units, reader=options.reader, overwrite=options.overwrite)
    print(f"wrote {options.output} (units {units})")
    for remark in remarks:
        print(remark)


def convert_structures(options: Options) -> None:
    """Structures as a RuNNer data file or extended XYZ; says on standard error what could not be kept."""
    check_outputs([options.output], options.overwrite, [options.source])

    from bpjax.io.label_keys import unused_labels
    from bpjax.io.runner_writer import write_runner
    from bpjax.io.structures import write_structures
    from bpjax.units import unit_system

    if options.output.suffix == _RUNNER:
        with units_option():  # before a long file is read
            unit_system(options.units, str(options.output))
    frames = read_frames(options.source, units=options.units, how=options)
    remarks: list[str] = []
    if options.output.suffix == _RUNNER:
        remarks = [one.sentence(len(frames), f"--{one.key}-key {one.name}") for one in unused_labels(frames)]
        try:
            remarks += write_runner(options.output, frames, options.units, options.missing_forces)
        except StructureError as error:
            raise StructureError(error.message, error.path or options.source, error.frame, error.field) from error
    else:
        from bpjax.io.extxyz import keep_texts

        for atoms in frames:
            keep_texts(atoms)
        write_structures(options.output, frames)
    for remark in remarks:
        say(remark)
    print(f"wrote {options.output}: {len(frames)} structures")
