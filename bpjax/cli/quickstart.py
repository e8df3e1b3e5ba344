"""``bpjax quickstart``: the whole way from DFT data to molten silicon, on the data that travel with bpjax."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from bpjax.cli.common import print_table


@dataclass(frozen=True)
class Options:
    """Train a potential for silicon on the DFT data shipped with bpjax, test it, and run molecular dynamics with it.

    The folder gets the model, errors by kind of structure, parity plots, the learning curve, energy-volume curves of nine
    crystal phases against DFT, trajectories of diamond at 300 K and of the melt, g(r), and all of it in report.md and
    report.json. It takes some minutes on two cores.

    Example: bpjax quickstart -o silicon
    """

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = Path("bpjax-quickstart")
    """Folder for the results; made if it does not exist."""

    seed: int = 0
    """Seed of the first parameters, the order of the structures and the momenta."""

    fast: bool = False
    """Everything once but short (about a minute), to see that it works; the model will be poor."""

    steps: int | None = None
    """Training steps, instead of the chosen number."""

    overwrite: bool = False
    """Replace the files of an earlier run in DIR."""

    def __post_init__(self) -> None:
        from bpjax.spec import check_seed  # here, because it needs numpy, which the help does not

        check_seed(self.seed)
        if self.steps is not None and self.steps < 2:
            raise ValueError(f"steps {self.steps}: must be at least 2")


def run(options: Options) -> None:
    """Runs all stages, prints their results and says where the report is."""
    from bpjax.io.lock import only_run

    with only_run(options.output, options.overwrite, "--overwrite replaces a run"):
        from bpjax.analysis.quickstart import fast_plan, full_plan, quickstart
        from bpjax.progress import progress

        plan = (fast_plan if options.fast else full_plan)(options.seed, options.steps)
        quickstart(options.output, plan, progress, show)
    print(f"\nreport: {options.output / 'report.md'}\nmodel:  {options.output / 'model.bpjax'}")


def show(stage: str, part: dict[str, Any]) -> None:
    """Prints the results of a stage."""
    if stage == "errors":
        from bpjax.cli.evaluate import print_errors

        for split, metrics in part.items():
            print_errors(f"\n{split} structures", metrics)
    elif stage in ("phases", "dynamics"):
        from bpjax.analysis import report

        title, header, rows = (report.phase_table if stage == "phases" else report.dynamics_table)(part)
        print_table(f"\n{title}", header, rows)
