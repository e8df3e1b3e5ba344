"""``bpjax predict``: what a model says about structures, as extended XYZ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from bpjax.cli.common import FileOptions, Units, check_outputs, load_model, read_frames, say_without_cells, use_dtype

if TYPE_CHECKING:
    import ase

    from bpjax.potential.evaluator import Evaluation

_LABELS = ("energy", "free_energy", "energies", "forces", "stress", "stresses", "virial", "magmom", "magmoms", "dipole")
_OURS = ("energy_spread", "forces_spread", "energy_noise", "forces_noise", "outside")
"""Results that came with a structure and are not the model's, and names that may stem from an earlier prediction."""


@dataclass(frozen=True)
class Options(FileOptions):
    """Energies, forces, stresses and atomic energies of structures, written as extended XYZ.

    ASE gives them back: ase.io.read("out.extxyz").get_potential_energy(), .get_forces(), .get_stress() (for structures
    that are periodic in all directions) and .get_potential_energies(). Energies are in eV, lengths in angstrom, stresses in
    eV/A^3, positive in tension. Labels in the input are replaced. A committee gives its mean, and the standard deviation
    as info["energy_spread"] and arrays["forces_spread"].

    Example: bpjax predict model.bpjax structures.xyz -o out.extxyz

    Example: bpjax predict nnp input.data --units hartree-bohr -o out.extxyz
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """The model: a .bpjax file, or a folder of n2p2 or RuNNer (also a committee: a folder with nnp-1, nnp-2, ...)."""

    structures: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")]
    """Structures in any format that ASE reads, or a RuNNer data file; all frames are taken."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="OUT.extxyz")]
    """Where the results go."""

    units: Units = None
    """Units of the files of n2p2 and RuNNer among MODEL and IN, which do not say them; required with such files alone."""

    dtype: Literal["float32", "float64"] = "float32"
    """Precision of the evaluation. float64 is slower and good for reference numbers."""

    extrapolation: Literal["off", "warn"] = "warn"
    """Whether to watch for symmetry functions outside the range that they had in training, where the model knows it: the
    first 10 warnings are shown, and the array "outside" in OUT counts the functions of each atom."""

    extrapolation_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE.extxyz")] = None
    """Write the structures with such warnings to this file, with the labels that they had; without any, it is empty."""

    overwrite: bool = False
    """Replace the output files if they exist."""

    def __post_init__(self) -> None:
        for name, path in (("output", self.output), ("extrapolation_file", self.extrapolation_file)):
            if path is not None and path.suffix not in ("", ".extxyz", ".xyz"):
                raise ValueError(f"{name} {path}: structures are written as extended XYZ; the name must end in .extxyz")
        if self.extrapolation_file is not None and self.extrapolation == "off":
            raise ValueError("extrapolation_file: needs --extrapolation warn")
        if self.extrapolation_file is not None and self.extrapolation_file.absolute() == self.output.absolute():
            raise ValueError(f"extrapolation_file {self.extrapolation_file}: must not be the output")


def run(options: Options) -> None:
    """Evaluates all structures and writes them with the results."""
    outputs = [path for path in (options.output, options.extrapolation_file) if path is not None]
    check_outputs(outputs, options.overwrite, (options.model, options.structures))
    use_dtype(options.dtype)
    model, params = load_model(options.model, options.units)

    from bpjax.cli.outside import offending, show_warnings
    from bpjax.io.structures import write_structures
    from bpjax.networks.scaling import ranges_known
    from bpjax.potential.evaluator import Evaluator
    from bpjax.progress import counted, patient, progress

    frames = read_frames(options.structures, units=options.units, how=options)
    say_without_cells(options.model, frames)
    watch = options.extrapolation == "warn" and ranges_known(params["scaling"])
    evaluator = Evaluator(model, params, options.dtype, watch=watch)
    results = evaluator.evaluate_many(frames, progress, options.structures)
    with patient(len(frames), "writing") as bar:
        write_structures(options.output, counted(map(labelled, frames, results), bar))
    print(f"wrote {options.output}: {len(frames)} structures")
    show_warnings(evaluator, frames, results)
    if options.extrapolation_file is not None:
        outside = offending(frames, results)
        write_structures(options.extrapolation_file, outside)
        print(f"wrote {options.extrapolation_file}: {len(outside)} structures")


def labelled(atoms: ase.Atoms, result: Evaluation) -> ase.Atoms:
    """A copy of the structure with the results of the model, and with those alone."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    from bpjax.io.extxyz import keep_texts

    copy = atoms.copy()
    for name in (*_LABELS, *_OURS):
        copy.info.pop(name, None)
        if name in copy.arrays:
            del copy.arrays[name]
    keep_texts(copy)
    for name in ("energy_spread", "energy_noise"):
        if getattr(result, name) is not None:
            copy.info[name] = getattr(result, name)
    for name in ("forces_spread", "forces_noise", "outside"):
        if getattr(result, name) is not None:
            copy.set_array(name, getattr(result, name))
    stress = None if result.stress is None else full_3x3_to_voigt_6_stress(result.stress)
    copy.calc = SinglePointCalculator(
        copy, energy=result.energy, energies=result.atomic_energies, forces=result.forces, stress=stress
    )
    return copy
