"""``bpjax predict``: what a model says about structures, as extended XYZ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from bpjax.cli.common import check_output, load_model, use_dtype

if TYPE_CHECKING:
    import ase

    from bpjax.potential.evaluator import Evaluation

_LABELS = ("energy", "free_energy", "energies", "forces", "stress", "stresses", "virial", "magmom", "magmoms", "dipole")
"""Results that came with a structure and are not the model's."""


@dataclass(frozen=True)
class Options:
    """Energies, forces, stresses and atomic energies of structures, written as extended XYZ.

    ASE gives them back: ase.io.read("out.extxyz").get_potential_energy(), .get_forces(), .get_stress() (for structures
    that are periodic in all directions) and .get_potential_energies(). Energies are in eV, lengths in angstrom, stresses in
    eV/A^3, positive in tension. Labels in the input are replaced.

    Example: bpjax predict model.bpjax structures.xyz -o out.extxyz
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """The model, a .bpjax file."""

    structures: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")]
    """Structures in any format that ASE reads; all frames are taken."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="OUT.extxyz")]
    """Where the results go."""

    dtype: Literal["float32", "float64"] = "float32"
    """Precision of the evaluation. float64 is slower and good for reference numbers."""

    overwrite: bool = False
    """Replace OUT if it exists."""

    def __post_init__(self) -> None:
        if self.output.suffix not in ("", ".extxyz", ".xyz"):
            raise ValueError(f"output {self.output}: results are written as extended XYZ; the name must end in .extxyz")


def run(options: Options) -> None:
    """Evaluates all structures and writes them with the results."""
    check_output(options.output, options.overwrite)
    use_dtype(options.dtype)
    model, params = load_model(options.model)

    from bpjax.io.structures import read_structures, write_structures
    from bpjax.potential.evaluator import Evaluator
    from bpjax.progress import progress

    frames = read_structures(options.structures)
    evaluator = Evaluator(model, params, options.dtype)
    results = evaluator.evaluate_many(frames, progress, options.structures)
    write_structures(options.output, [labelled(atoms, result) for atoms, result in zip(frames, results, strict=True)])
    print(f"wrote {options.output}: {len(frames)} structures")


def labelled(atoms: ase.Atoms, result: Evaluation) -> ase.Atoms:
    """A copy of the structure with the results of the model, and with those alone."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    copy = atoms.copy()
    for name in _LABELS:
        copy.info.pop(name, None)
        if name in copy.arrays:
            del copy.arrays[name]
    stress = None if result.stress is None else full_3x3_to_voigt_6_stress(result.stress)
    copy.calc = SinglePointCalculator(
        copy, energy=result.energy, energies=result.atomic_energies, forces=result.forces, stress=stress
    )
    return copy
