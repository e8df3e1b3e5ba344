"""``bpjax sweep``: many trainings at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from bpjax.errors import BpjaxError

if TYPE_CHECKING:
    from bpjax.training.sweep import SweepResult
    from bpjax.training.sweep_options import SweepRun


@dataclass(frozen=True)
class Options:
    """Train many points of a space of options at once, and keep the best.

    CONFIG.toml is a training file (see `bpjax train`) with two more sections, such as

      [sweep]
      trials = 256
      members = 64

      [sweep.space]
      "optimizer.learning_rate" = { low = 1e-4, high = 1e-2, log = true }
      "network.hidden" = [[16, 16], [32, 32]]

    More options of [sweep]: sampler (random, grid, or one of Optuna: tpe, cmaes, gp, qmc), halving and rungs (when to give up the
    worse ones), objective, storage (for several processes to share one study), seed; see `bpjax.training.sweep_options`. The
    folder gets trials.csv and trials.jsonl (the table), report.json, parallel.png, pareto.png, best/model.bpjax, and
    best/config.toml, which trains the best point alone. Ctrl-C keeps the batches that are finished: go on with --resume.

    Example: bpjax sweep silicon.toml -o sweep
    """

    config: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CONFIG.toml")]
    """The options of the runs, with the sections [sweep] and [sweep.space]."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    """Folder for the results; made if it does not exist."""

    resume: bool = False
    """Go on with an interrupted sweep in DIR; `trials` may have grown."""


def run(options: Options) -> None:
    """Sweeps, or goes on sweeping, and reports."""
    from bpjax.io.lock import only_run
    from bpjax.training.sweep_files import IDENTITY

    if options.resume and not (options.output / IDENTITY).exists():
        raise BpjaxError(f"{options.output} holds no sweep to resume ({IDENTITY} is missing)")
    with only_run(options.output, options.resume):
        _run(options)


def _run(options: Options) -> None:
    """The sweep, in a folder that is its own."""
    from bpjax.progress import progress
    from bpjax.training.sweep import sweep
    from bpjax.training.sweep_options import read_sweep

    asked = read_sweep(options.config)
    _quiet()
    result = sweep(
        asked.structures, asked.file, asked.settings, options.output, resume=options.resume, progress=progress
    )
    if result.trials:
        finish(options.output, result, asked)
    if not result.finished:
        raise KeyboardInterrupt(
            f"after {len(result.trials)} trials; go on with bpjax sweep {options.config} -o {options.output} --resume"
        )


def _quiet() -> None:
    """Keeps Optuna, if it is there, from writing a line for each trial."""
    try:
        import optuna
    except ImportError:
        return
    optuna.logging.set_verbosity(optuna.logging.WARNING)


SHOWN = 10
"""Trials in the table that is printed."""


def finish(folder: Path, result: SweepResult, asked: SweepRun) -> None:
    """Writes report and plots, and prints the best trials."""
    from bpjax.analysis.sweep_plots import plot_parallel, plot_pareto
    from bpjax.cli.common import print_table
    from bpjax.io.atomic import write_json
    from bpjax.training.sweep import pareto_front
    from bpjax.training.sweep_files import table

    settings = asked.settings
    states = [trial.state for trial in result.trials]
    counts = {state: states.count(state) for state in ("complete", "pruned", "diverged")}
    front = pareto_front(result.trials)
    best: dict[str, Any] | None = None
    if result.best is not None:
        own = result.best
        best = {"trial": own.number, "point": own.point, "objective": own.objective, "validation": own.errors}
        best |= {"cost_us_per_atom": own.cost, "model": "best/model.bpjax", "config": "best/config.toml"}
    report = {"finished": result.finished, "trials": len(states), **counts, "objective": settings.objective}
    write_json(folder / "report.json", {**report, "best": best, "pareto": [trial.number for trial in front]})
    log = [name for name, axis in settings.space.items() if getattr(axis, "log", False)]
    plot_parallel(result.trials, settings.objective, log, path=folder / "parallel.png")
    units = {"energy_mae": "eV/atom", "energy_rmse": "eV/atom", "forces_mae": "eV/Å", "forces_rmse": "eV/Å"}
    plot_pareto(result.trials, front, settings.objective, units, path=folder / "pareto.png")
    ranked = sorted(result.trials, key=lambda t: (t.state != "complete", t.objective is None, t.objective))
    header, rows = table(ranked[:SHOWN])
    rows = [
        [str(row[0]), *("-".join(map(str, v)) if isinstance(v, list | tuple) else v for v in row[1:])] for row in rows
    ]
    title = f"best of {len(states)} trials ({', '.join(f'{n} {state}' for state, n in counts.items())})"
    print_table(title, header, rows)
