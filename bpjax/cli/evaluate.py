"""``bpjax evaluate``: errors of a model against labelled structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from bpjax.cli.common import (
    KeyOptions,
    Units,
    check_outputs,
    load_model,
    print_table,
    read_frames,
    say,
    say_without_cells,
    use_dtype,
)

if TYPE_CHECKING:
    import ase

    from bpjax.analysis.errors import Quantities


@dataclass(frozen=True)
class Options(KeyOptions):
    """Errors of a model against labelled structures: overall, by kind of structure, by element, and by the size of the force.

    Labels are energy, forces and stress under ASE's names, or those that are given; those that a structure lacks do not count.
    Isolated atoms are named, and do not count either. Kinds are told apart
    by config_type (or group). Energies are compared per atom, forces and stresses component by component. The structures with
    the largest errors are listed. Errors of committees, and of models that predict the noise of the labels, are compared with
    those that the model expects.

    Example: bpjax evaluate model.bpjax test.extxyz --json errors.json
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """The model: a .bpjax file, or a folder of n2p2 or RuNNer (also a committee: a folder with nnp-1, nnp-2, ...)."""

    structures: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")]
    """Labelled structures in any format that ASE reads, or a RuNNer data file; all frames are taken."""

    json: Annotated[Path | None, tyro.conf.arg(metavar="OUT.json")] = None
    """Write the errors to this file too: energy_mae, energy_rmse (eV/atom), forces_mae, forces_rmse (eV/A), stress_mae,
    stress_rmse (eV/A^3), counts, the same for each kind under "groups", the forces under "elements" and "force_size", the
    largest errors under "worst", "calibration" where the model expects errors, and structures_outside, the number of
    structures outside the range of training (null where the model does not know it)."""

    units: Units = None
    """Units of the files of n2p2 and RuNNer among MODEL and IN, which do not say them; required with such files alone."""

    dtype: Literal["float32", "float64"] = "float32"
    """Precision of the evaluation."""

    overwrite: bool = False
    """Replace OUT.json if it exists."""


def run(options: Options) -> None:
    """Evaluates all structures, prints a table, and writes JSON if asked to."""
    if options.json is not None:
        check_outputs([options.json], options.overwrite, (options.model, options.structures))
    use_dtype(options.dtype)
    model, params = load_model(options.model, options.units)

    from bpjax.cli.outside import structures_outside, summary
    from bpjax.errors import StructureError
    from bpjax.io.atomic import write_json
    from bpjax.io.label_keys import free_energy_alone, two_energies, unused_labels
    from bpjax.io.labels import is_isolated_atom, labels
    from bpjax.networks.scaling import ranges_known
    from bpjax.potential.evaluator import Evaluator
    from bpjax.progress import progress

    frames = read_frames(options.structures, units=options.units, how=options)
    say_without_cells(options.model, frames)
    reference = [labels(atoms, options.structures, number) for number, atoms in enumerate(frames)]
    unused = unused_labels(frames)
    if all(label.energy is None and label.forces is None and label.stress is None for label in reference):
        there = (
            f"; it has {', '.join(repr(one.name) for one in unused)}, see --energy-key and the others" if unused else ""
        )
        raise StructureError(f"no structure has an energy, forces or stress to compare with{there}", options.structures)
    for one in unused:
        say(f"{options.structures}: {one.sentence(len(frames), f'--{one.key}-key {one.name}')}")
    if free := sum(map(free_energy_alone, frames)):
        say(
            f"{options.structures}: {free} of {len(frames)} structures have a free_energy alone, which is compared with"
        )
    apart = [abs(both[0] - both[1]) / len(a) for a in frames if (both := two_energies(a)) is not None]
    if max(apart, default=0.0) > 1e-3:
        message = f"energy and free_energy differ by up to {max(apart):.3g} eV/atom; energy is compared with"
        say(f"{options.structures}: {message} (--energy-key free_energy)")
    watch = ranges_known(params["scaling"])
    evaluator = Evaluator(model, params, options.dtype, watch=watch)
    predicted = evaluator.evaluate_many(frames, progress, options.structures)
    sources = [(str(options.structures), number) for number in range(len(frames))]
    alone = [is_isolated_atom(atoms) for atoms in frames]
    if any(alone) and not all(alone):  # free-atom energies say nothing of the errors in a crystal
        for atoms, label, found in compress(zip(frames, reference, predicted, strict=True), alone):
            say(f"isolated {atoms.symbols} is not counted: {label.energy} eV, by the model {found.energy:.6g} eV")
        kept = [not is_alone for is_alone in alone]
        frames, predicted, reference, sources = (
            list(compress(x, kept)) for x in (frames, predicted, reference, sources)
        )
    metrics = measure(frames, predicted, reference, sources)
    metrics["structures_outside"] = len(structures_outside(predicted)) if watch else None
    if options.json is not None:
        write_json(options.json, metrics)
    print_errors(str(options.structures), metrics)
    print_details(str(options.structures), metrics)
    if watch:
        print(summary(predicted))


def measure(
    frames: Sequence[ase.Atoms],
    predicted: Sequence[Quantities],
    reference: Sequence[Quantities],
    sources: Sequence[tuple[str, int]],
) -> dict[str, Any]:
    """`bpjax.analysis.errors.error_metrics` by all that is known about the structures."""
    from bpjax.analysis.errors import error_metrics
    from bpjax.io.labels import group_of

    return error_metrics(
        predicted,
        reference,
        [len(atoms) for atoms in frames],
        [group_of(atoms) for atoms in frames],
        [atoms.get_chemical_symbols() for atoms in frames],
        sources,
    )


def print_details(title: str, metrics: dict[str, Any]) -> None:
    """Prints errors by element and size of the force, the largest ones, and against those expected."""
    from bpjax.analysis.report import detail_tables

    for name, header, rows in detail_tables(title, metrics):
        print()
        print_table(name, header, rows)


def print_errors(title: str, metrics: dict[str, Any]) -> None:
    """Prints the errors of `bpjax.analysis.errors.error_metrics` as a table, in meV and GPa where that reads better."""
    from bpjax.units import GPA

    header = [
        "kind",
        "structures",
        "energy MAE",
        "RMSE (meV/atom)",
        "forces MAE",
        "RMSE (eV/A)",
        "stress MAE",
        "RMSE (GPa)",
    ]
    units = {"energy": 1e-3, "forces": 1.0, "stress": GPA}

    def row(name: str, values: dict[str, Any]) -> list[Any]:
        found = [name, values["structures"]]
        for quantity, unit in units.items():
            for kind in ("mae", "rmse"):
                value = values[f"{quantity}_{kind}"]
                found.append(None if value is None else value / unit)
        return found

    rows = [row(name, values) for name, values in metrics["groups"].items()]
    print_table(title, header, [*rows, row("all", metrics)])
