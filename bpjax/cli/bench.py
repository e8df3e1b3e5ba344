"""``bpjax bench``: how fast a model runs on this machine, and how large a system fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from bpjax.cli.common import (
    FileOptions,
    Units,
    check_outputs,
    load_model,
    print_table,
    read_frames,
    use_all_cores,
    use_dtype,
)

if TYPE_CHECKING:
    from bpjax.analysis.speed import Speed


@dataclass(frozen=True)
class Options(FileOptions):
    """What a model costs on this machine: time for energy and forces, time per step of molecular dynamics, memory.

    The structure is repeated to several sizes (one without periodic directions is taken as it is). For each size, energy and
    forces are timed with the neighbour list given, and NVE dynamics with list updates but without output; medians of several
    runs, compilation apart. The largest system that fits is an estimate from the growth of memory with size.

    Example: bpjax bench model.bpjax diamond.xyz --sizes 1000 10000 100000 --json bench.jsonl
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """The model: a .bpjax file, or a folder of n2p2 or RuNNer (also a committee: a folder with nnp-1, nnp-2, ...)."""

    structure: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")]
    """The structure: any format that ASE reads, or a RuNNer data file."""

    frame: int = -1
    """Which frame of IN, counted from 0; negative numbers count from the end."""

    sizes: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N")] = (100, 1000, 10000)
    """Numbers of atoms, at least; what does not fit into memory is left out."""

    steps: int = 50
    """Steps of dynamics in each timed run; fewer where they take more than 20 s."""

    repeats: int = 5
    """Timed runs, of which the median counts."""

    timestep: Annotated[float, tyro.conf.arg(metavar="FS")] = 1.0
    """Time step in fs, for ns per day and for how often neighbour lists are built."""

    temperature: float = 300.0
    """Of the initial momenta, in K."""

    json: Annotated[Path | None, tyro.conf.arg(metavar="OUT.jsonl")] = None
    """Write the results to this file too, as JSON lines: one for each size (atoms, neighbors, energy_per_atom in eV, compile
    times in s, ms_per_evaluation, ms_per_step, us_per_atom_step, atom_steps_per_s, ns_per_day, list_builds per step, program_gb,
    memory_gb), and a last one with largest_atoms, kb_per_atom and memory_limit_gb (null where not known); each with device,
    cores, dtype and versions."""

    units: Units = None
    """Units of the files of n2p2 and RuNNer among MODEL and IN, which do not say them; required with such files alone."""

    dtype: Literal["float32", "float64"] = "float32"
    """Precision."""

    overwrite: bool = False
    """Replace OUT.jsonl if it exists."""

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes {' '.join(map(str, self.sizes))}: at least one number of atoms, each at least 1")
        for name in ("steps", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")


def run(options: Options) -> None:
    """Measures, prints a table, and writes JSON lines if asked to."""
    if options.json is not None:
        check_outputs([options.json], options.overwrite, (options.model, options.structure))
    use_dtype(options.dtype)
    use_all_cores()
    model, params = load_model(options.model, options.units)

    import json

    import jax

    from bpjax.analysis.speed import largest_system, measure_sizes, surroundings
    from bpjax.io.atomic import write_text
    from bpjax.machine import memory_limit_gb
    from bpjax.progress import progress

    atoms = read_frames(options.structure, options.frame, options.units, how=options)[0]
    found, left_out = measure_sizes(
        model,
        params,
        atoms,
        options.sizes,
        progress=progress,
        steps=options.steps,
        repeats=options.repeats,
        timestep_fs=options.timestep,
        temperature=options.temperature,
        dtype=options.dtype,
    )
    where = surroundings(options.dtype)
    limit = memory_limit_gb(jax.local_devices()[0])
    largest = largest_system(found, limit)
    if options.json is not None:
        common = {"model": str(options.model), "structure": str(options.structure), **where}
        fits = {"largest_atoms": None, "kb_per_atom": None, "memory_limit_gb": limit}
        if largest is not None:
            fits |= {"largest_atoms": largest.atoms, "kb_per_atom": largest.kb_per_atom}
        lines = [*(speed.line() for speed in found), fits]
        write_text(options.json, "".join(json.dumps(line | common, allow_nan=False) + "\n" for line in lines))
    print_speeds(found, where)
    if left_out is not None:
        print(f"left out: {left_out}")
    if largest is None:
        print("largest system: not known; an estimate takes two sizes")
    else:
        per_atom = f"{largest.kb_per_atom:.3g} kB per atom, {largest.limit_gb:.3g} GB of memory"
        print(f"largest system: about {largest.atoms:.2g} atoms ({per_atom}; an estimate)")


def print_speeds(found: list[Speed], where: dict[str, Any]) -> None:
    """Prints what was measured as a table."""
    header = [
        "atoms",
        "neighbours",
        "compile (s)",
        "E and F (ms)",
        "step (ms)",
        "step (us/atom)",
        "atom steps/s",
        "ns/day",
        "memory (GB)",
    ]
    rows = [
        [
            str(speed.atoms),
            speed.neighbors,
            speed.md_compile_s,
            speed.ms_per_evaluation,
            speed.ms_per_step,
            1e3 * speed.ms_per_step / speed.atoms,
            speed.atom_steps_per_s,
            speed.ns_per_day,
            speed.memory_gb,
        ]
        for speed in found
    ]
    title = f"{where['device']}, {where['cores']} cores, {where['dtype']}, jax {where['versions']['jax']}"
    print_table(title, header, rows)
