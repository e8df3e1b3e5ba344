"""``bpjax train``: fit a potential to energies, forces and stresses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from bpjax.errors import BpjaxError, OutputExistsError

if TYPE_CHECKING:
    from bpjax.training import Fit, TrainingOptions
    from bpjax.training.prepare import Structures


@dataclass(frozen=True)
class Options:
    """Fit a potential to energies, forces and stresses.

    CONFIG.toml names the data and sets the options; file names in it are relative to it. The least that it needs is

      [data]
      train = ["train.extxyz"]

    More sections: [descriptor], [network], [loss], [optimizer]; see `bpjax.training.options` or the README. The folder gets
    model.bpjax, metrics.jsonl (validation errors while training), report.json (errors by kind of structure), plots, and a
    checkpoint. Ctrl-C stops at once and keeps the checkpoint: go on with --resume.

    Example: bpjax train silicon.toml -o silicon
    """

    config: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CONFIG.toml")]
    """The options of the run."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    """Folder for the results; made if it does not exist."""

    resume: bool = False
    """Go on with an interrupted run in DIR: same options and data, same numbers as without the interruption."""


def run(options: Options) -> None:
    """Trains, or goes on training, and reports."""
    from bpjax.progress import progress
    from bpjax.training import fit
    from bpjax.training.checkpoint import NAME
    from bpjax.training.prepare import read_run

    settings, structures = read_run(options.config)
    checkpoint = options.output / NAME
    if options.resume and not checkpoint.exists():
        raise BpjaxError(f"{options.output} holds no run to resume ({NAME} is missing)")
    if not options.resume:
        make_folder(options.output)
    result = fit(structures, settings, options.output, resume=options.resume, progress=progress)
    finish(options.output, result, structures, settings)
    if not result.finished:
        raise KeyboardInterrupt(
            f"at step {result.step} of {settings.optimizer.steps}; go on with bpjax train {options.config} "
            f"-o {options.output} --resume"
        )


def make_folder(folder: Path) -> None:
    """Makes the output folder.

    Raises:
      OutputExistsError: it already holds a run (or anything else).
      BpjaxError: it cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise BpjaxError(f"cannot write to {folder}: it is a file, not a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise OutputExistsError(f"{folder} already holds files; it was left as it is (--resume goes on with a run)")
    folder.mkdir(parents=True, exist_ok=True)


def finish(folder: Path, result: Fit, structures: Structures, settings: TrainingOptions) -> None:
    """Writes model, report and plots of a run, and prints the errors."""
    from bpjax.analysis.errors import error_metrics
    from bpjax.analysis.plots import plot_learning_curve, plot_parity
    from bpjax.cli.evaluate import print_errors
    from bpjax.io.atomic import write_json
    from bpjax.io.structures import group_of, labels
    from bpjax.potential.evaluator import Evaluator
    from bpjax.potential.store import save
    from bpjax.progress import progress
    from bpjax.spec import to_spec

    provenance = {"options": to_spec(settings), "data": structures.fingerprint(), "step": result.step}
    save(folder / "model.bpjax", result.model, result.params, provenance)
    report: dict[str, Any] = {"finished": result.finished, "steps": result.step, "model": "model.bpjax", **provenance}
    evaluator = Evaluator(result.model, result.params)
    shown = {}
    for name, split in (("train", structures.train), ("validation", structures.validation), ("test", structures.test)):
        if not len(split):
            continue
        predicted = evaluator.evaluate_many(split.frames, progress)
        reference = [labels(atoms) for atoms in split.frames]
        groups = [group_of(atoms) for atoms in split.frames]
        sizes = [len(atoms) for atoms in split.frames]
        report[name] = error_metrics(predicted, reference, sizes, groups)
        print_errors(name, report[name])
        shown = {"predicted": predicted, "reference": reference, "groups": groups}
    write_json(folder / "report.json", report)
    plot_learning_curve(result.history, path=folder / "learning_curve.png")
    plot_parity(**shown, path=folder / "parity.png")  # of the last split there is: test, else validation
