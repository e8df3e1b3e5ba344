"""``bpjax train``: fit a potential to energies, forces and stresses."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from bpjax.errors import BpjaxError

if TYPE_CHECKING:
    from bpjax.training import Fit, TrainingOptions
    from bpjax.training.prepare import Structures

SHOWN = 5
"""How many of the structures that are not used are printed."""


@dataclass(frozen=True)
class Options:
    """Fit a potential to energies, forces and stresses.

    CONFIG.toml names the data and sets the options; file names in it are relative to it. The least that it needs is

      [data]
      train = ["train.extxyz"]

    More sections: [descriptor], [network], [loss], [optimizer], [ensemble], [noise]; see `bpjax.training.options` or the README.
    The folder gets model.bpjax, metrics.jsonl (validation errors while training), report.json (errors by kind of structure,
    element and size of the force, cost of the training, what is odd about the data), plots, and a checkpoint. Ctrl-C stops at
    once and keeps the checkpoint: go on with --resume.

    A model.bpjax in place of CONFIG.toml repeats the run that made it, on the same data. They are looked for in --data-folder,
    else in the current folder, and where they were, as seen from the model, when it was made.

    Example: bpjax train silicon.toml -o silicon
    """

    config: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CONFIG.toml")]
    """The options of the run; or a model, to repeat the run that made it."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    """Folder for the results; made if it does not exist."""

    data_folder: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """What file names of data are relative to, in place of the folder of CONFIG.toml."""

    resume: bool = False
    """Go on with an interrupted run in DIR: same options and data, same numbers as without the interruption."""

    distributed: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Train in several processes, all started with the same command and folder: address of the first one, or `auto`."""


def run(options: Options) -> None:
    """Trains, or goes on training, and reports."""
    from bpjax.io.lock import only_run
    from bpjax.training import parallel
    from bpjax.training.checkpoint import NAME

    if options.distributed is not None:
        parallel.connect(options.distributed)
    first = parallel.is_first()
    if options.resume and not (options.output / NAME).exists():
        raise BpjaxError(f"{options.output} holds no run to resume ({NAME} is missing)")
    with ExitStack() as stack:
        # Before anything is read: nobody else may take the folder meanwhile.
        parallel.first_does(lambda: stack.enter_context(only_run(options.output, options.resume)))
        _run(options, first)


def _run(options: Options, first: bool) -> None:
    """The run, in a folder that is its own."""
    from bpjax.progress import progress, silent
    from bpjax.training import fit, parallel
    from bpjax.training.cost import Watch

    settings, structures, data_folder = read_task(options.config, options.data_folder)
    announce = say if first else lambda line: None
    for line in [*remarks(structures), *readers(settings, structures)]:
        announce(line)
    with Watch(progress if first else silent) as watch:
        result = fit(structures, settings, options.output, resume=options.resume, progress=watch, announce=announce)
    cost = watch.cost(result, structures)
    parallel.disconnect()
    if first:
        finish(options.output, result, structures, settings, cost, data_folder)
    if not result.finished:
        raise KeyboardInterrupt(
            f"at step {result.step} of {watch.total}; go on with bpjax train {options.config} -o {options.output} --resume"
        )


def read_task(path: Path, data_folder: Path | None = None) -> tuple[TrainingOptions, Structures, Path]:
    """Options and structures of a training file, or of the run that made a model; and the folder of the data.

    Raises:
      as `bpjax.training.prepare.read_run` and `bpjax.training.repeat.read_repetition`.
    """
    from bpjax.training.prepare import read_run
    from bpjax.training.repeat import read_repetition

    if path.suffix == ".bpjax":
        return read_repetition(path, data_folder)
    return *read_run(path, data_folder), data_folder or path.parent


def say(line: str) -> None:
    """Prints a line at once, also into a file: what follows takes long."""
    print(line, flush=True)


def remarks(structures: Structures) -> list[str]:
    """What there is to know about the data before anything is trained on them."""
    lines = [] if structures.report is None else structures.report.lines()
    dropped = structures.dropped
    if dropped:
        lines.append(f"not used: {len(dropped)} structures")
        lines += [f"  {one}" for one in dropped[:SHOWN]]
        lines += [f"  and {len(dropped) - SHOWN} more"] * (len(dropped) > SHOWN)
    return lines


def readers(settings: TrainingOptions, structures: Structures) -> list[str]:
    """Which other programs the model can be written for, before anybody waits for a model that they cannot read."""
    from bpjax.interop.n2p2.export import READERS, export_problems
    from bpjax.potential import Potential
    from bpjax.training.problem import descriptor_of

    model = Potential(descriptor_of(structures, settings), settings.network)
    found = {name: export_problems(model, reader) for reader, name in READERS.items()}
    able = [name for name, problems in found.items() if not problems]
    if not able:
        return [f"can be written for no other program (bpjax convert): {'; '.join(found['n2p2'])}"]
    return [f"can be written for {', '.join(able)} (bpjax convert)"]


def finish(
    folder: Path,
    result: Fit,
    structures: Structures,
    settings: TrainingOptions,
    cost: dict[str, Any] | None = None,
    data_folder: Path = Path(),
) -> None:
    """Writes model, report and plots of a run, and prints the errors and the cost.

    The model file says how to repeat the run: the options, the hash of the data and the versions.
    """
    from bpjax.analysis.report import cost_table
    from bpjax.cli.common import print_table
    from bpjax.cli.evaluate import print_details, print_errors
    from bpjax.io.atomic import write_json
    from bpjax.potential.store import save
    from bpjax.training.repeat import how_made

    made = how_made(settings, structures, result.step, data_folder, folder)
    save(folder / "model.bpjax", result.model, result.params, made)
    memory = result.memory
    report: dict[str, Any] = {
        "finished": result.finished,
        "steps": result.step,
        "model": "model.bpjax",
        **made,
        "cost": cost,
        "widths": result.widths,
        "memory": memory and {"kind": memory.kind, "bytes": memory.total, "alternatives": memory.alternatives},
        "sanity": None if structures.report is None else structures.report.to_dict(),
        "dropped": [str(one) for one in structures.dropped],
    }
    errors = measure_splits(folder, result, structures)
    write_json(folder / "report.json", {**report, **errors})
    for name, metrics in errors.items():
        print_errors(name, metrics)
    last = list(errors)[-1]
    print_details(last, errors[last])
    if result.widths:
        print("learned widths: " + ", ".join(f"{kind} {width:.4g}" for kind, width in result.widths.items()))
    if cost is not None:
        print_table(*cost_table(cost))


def measure_splits(folder: Path, result: Fit, structures: Structures) -> dict[str, dict[str, Any]]:
    """Errors of the finished model on each split that there is, with the plots of them and of the training."""
    from bpjax.analysis.error_plots import plot_errors
    from bpjax.analysis.plots import plot_learning_curve, plot_parity
    from bpjax.cli.evaluate import measure
    from bpjax.io.labels import group_of, labels
    from bpjax.potential.evaluator import Evaluator
    from bpjax.progress import progress

    evaluator = Evaluator(result.model, result.params)
    errors, compared, groups = {}, {}, []
    for name, split in (("train", structures.train), ("validation", structures.validation), ("test", structures.test)):
        if not len(split):
            continue
        predicted = evaluator.evaluate_many(split.frames, progress)
        reference = [labels(atoms) for atoms in split.frames]
        groups = [group_of(atoms) for atoms in split.frames]
        errors[name] = measure(split.frames, predicted, reference, split.sources)
        compared[name] = (predicted, reference, [len(atoms) for atoms in split.frames])
    plot_learning_curve(result.history, path=folder / "learning_curve.png")
    predicted, reference, _ = compared[list(compared)[-1]]  # test if there is one, else validation
    plot_parity(predicted, reference, groups, path=folder / "parity.png")
    plot_errors(compared, path=folder / "errors.png")
    return errors
