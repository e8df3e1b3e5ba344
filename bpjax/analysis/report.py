"""Tables of errors and of what a training cost, and the report of the quickstart as Markdown.

A table is its title, its header and its rows; the command line prints it, `markdown` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bpjax.io.atomic import write_text
from bpjax.units import GPA

Table = tuple[str, list[str], list[list[Any]]]

HEAD = """\
# Silicon from DFT data to the melt

Made by `bpjax quickstart` (seed {seed}, {seconds[total]:.0f} s altogether). All numbers of this page are in `report.json` too.

The data are PBE calculations of {total} structures of silicon that travel with bpjax: crystals at several volumes and under
random strain, thermal diamond, defects, amorphous networks and the melt. Their README says how they were made and how
accurate they are; the k meshes alone leave about 2 to 5 meV/atom between kinds of structures and, in the melt, 0.09 eV/Å in
the forces. Stresses were corrected for the Pulay stress of 0.4 GPa as that README explains.

## Training

{structures[train]} structures were trained on, {structures[validation]} watched, {structures[test]} kept for testing. Each
environment is described by {features} numbers, a SOAP power spectrum; {steps} steps took {fit_seconds:.0f} s, compilation
included. The parameters kept are those of the end of the run.

![learning curve](learning_curve.png)

## Errors

"""

PARITY = """
![parity of the test structures](parity_test.png)

The same figure for the other structures: [training](parity_train.png), [validation](parity_validation.png).

## Crystal phases

"""

PHASES = """
Energies are relative to the most stable phase. Birch-Murnaghan equations of state were fitted to the same volumes for model
and DFT; phases with fewer than five volumes have no fit, and their energy is the lowest one calculated. All but a few of these
points were trained on: the curves show how well the model interpolates, not how well it extrapolates.

Lattice constant of diamond: {a[model]} Å (DFT {a[dft]} Å).

Order of stability, DFT: {order[dft]}.
Model: {order[model]}{verdict}.

![energy against volume](energy_volume.png)

## Molecular dynamics

{atoms} atoms in float32. Diamond was held at 300 K by a Nosé-Hoover thermostat; from there it ran on at constant energy. A second
run started from the crystal at the density of the liquid structures of the data ({volume:.2f} Å³ per atom) and {hot:.0f} K.

"""

END = """
Averages are over the second half of each run. *Drift* is the slope of the conserved energy, *g minimum* the lowest value of g(r)
between its first two maxima (zero in a crystal), *MSD* the mean squared displacement at the end and *D* the diffusion coefficient
from its slope.

{molten}

![temperature and conserved energy](dynamics.png)

![radial distribution functions](g_of_r.png)

## How to go on

- `bpjax predict model.bpjax STRUCTURES -o out.extxyz` evaluates other structures, `bpjax evaluate` compares with labels, and
  `bpjax md model.bpjax STRUCTURE` runs dynamics, from the folder of this report.
- In Python: `import bpjax as bp; model, params = bp.load("model.bpjax")`.
- `bpjax train CONFIG.toml -o DIR` fits your own data; the options of this run are in `report.json` under `training`.
- Trajectories (`*.extxyz`) open in ASE or OVITO; the logs (`*.jsonl`) hold one record per line.
"""

MOLTEN = "The crystal has melted: atoms diffuse, and neighbours are found at all distances beyond the first shell."
DIVERGED = "The second run exploded, as potentials do where they have seen no data ({diverged})."
SOLID = "The second run is not (or not demonstrably) molten: it is too short, or the model too poor."


def error_table(title: str, metrics: Mapping[str, Any]) -> Table:
    """Root mean square errors of `bpjax.analysis.errors.error_metrics` by kind of structure."""
    units = {"energy_rmse": 1e-3, "forces_rmse": 1.0, "stress_rmse": GPA}

    def row(name: str, found: Mapping[str, Any]) -> list[Any]:
        # Forces that vanish by symmetry differ by rounding only.
        values = [None if found[key] is None else round(found[key] / unit, 4) for key, unit in units.items()]
        return [name, found["structures"], *values]

    header = ["kind", "structures", "energy (meV/atom)", "forces (eV/Å)", "stress (GPa)"]
    return title, header, [*(row(*item) for item in metrics["groups"].items()), row("all", metrics)]


def element_table(title: str, metrics: Mapping[str, Any]) -> Table:
    """Errors of the forces on the atoms of each element."""
    header = ["element", "atoms", "forces MAE", "RMSE (eV/A)", "relative"]
    return title, header, [[name, *_force_errors(found)] for name, found in metrics["elements"].items()]


def force_size_table(title: str, metrics: Mapping[str, Any]) -> Table:
    """Errors of the forces by the size of the reference force; ranges without atoms are left out."""
    header = ["reference force (eV/A)", "atoms", "forces MAE", "RMSE (eV/A)", "relative"]
    rows = []
    for found in metrics["force_size"]:
        limits = f"{found['from']:g} to {found['to']:g}" if found["to"] is not None else f"above {found['from']:g}"
        if found["atoms"]:
            rows.append([limits, *_force_errors(found)])
    return title, header, rows


def _force_errors(found: Mapping[str, Any]) -> list[Any]:
    return [found[name] for name in ("atoms", "forces_mae", "forces_rmse", "forces_relative")]


def worst_table(title: str, metrics: Mapping[str, Any]) -> Table:
    """The structures with the largest errors, energies first."""
    rows = []
    for found in metrics["worst"]["energy"]:
        rows.append([_structure(found), found.get("group"), "energy (meV/atom)", found["error"] / 1e-3])
    for found in metrics["worst"]["forces"]:
        atom = f"force on atom {found['atom']}{' (' + found['element'] + ')' if 'element' in found else ''} (eV/A)"
        rows.append([_structure(found), found.get("group"), atom, found["error"]])
    return title, ["structure", "kind", "of", "error"], rows


def _structure(found: Mapping[str, Any]) -> str:
    """File and frame, or the number where they are not known; frames count from 0."""
    return f"{found['file']}: frame {found['frame']}" if "file" in found else f"{found['structure']}"


def calibration_table(title: str, metrics: Mapping[str, Any]) -> Table:
    """Errors against those that the model expected."""
    header = ["quantity", "count", "error (rms)", "expected (rms)", "mean z^2", "within 1 sigma", "within 2 sigma"]
    keys = ("count", "error_rms", "sigma_rms", "z_squared", "within_one", "within_two")
    units = {"energy": "energy (eV)", "forces": "forces (eV/A)"}
    return title, header, [[units[n], *(found[key] for key in keys)] for n, found in metrics["calibration"].items()]


def detail_tables(title: str, metrics: Mapping[str, Any]) -> list[Table]:
    """Tables of `bpjax.analysis.errors.error_metrics` beside the one by kind: those that have something to tell."""
    tables = []
    if metrics["forces_count"]:
        if len(metrics.get("elements", {})) > 1:
            tables.append(element_table(f"{title}: forces by element", metrics))
        tables.append(force_size_table(f"{title}: forces by size", metrics))
    if "calibration" in metrics:
        tables.append(calibration_table(f"{title}: errors against expected errors", metrics))
    tables.append(worst_table(f"{title}: largest errors", metrics))
    return tables


def cost_table(cost: Mapping[str, Any]) -> Table:
    """What a training cost; see `bpjax.training.cost.Watch`."""
    names = {
        "seconds": "seconds in all",
        "training_seconds": "seconds of training, validation included",
        "compile_seconds": "seconds of these for compilation",
        "steps": "steps",
        "seconds_per_step": "seconds per step, without compilation",
        "structures_per_second": "structures per second",
        "atoms_per_second": "atoms per second",
        "memory_peak_gb": "largest memory (GB)",
        "device_memory_peak_gb": "largest memory of the device (GB)",
        "device": "device",
    }
    rows = [[text, cost[name]] for name, text in names.items() if cost.get(name) is not None]
    return "cost of training", ["quantity", "value"], rows


def phase_table(phases: Mapping[str, Any]) -> Table:
    """Properties of the crystal phases, model and DFT."""
    header = ["phase", "E (meV)", "DFT", "V0 (Å³)", "DFT", "B0 (GPa)", "DFT", "RMSE (meV)"]
    rows = []
    for phase in phases["order"]["dft"]:
        pair = (phases["model"][phase], phases["dft"][phase])
        values = [1e3 * found["energy"] for found in pair]
        values += [found[name] for name in ("volume", "bulk_modulus") for found in pair]
        rows.append([phase, *values, 1e3 * phases["rmse"][phase]])
    return "crystal phases, per atom", header, rows


def dynamics_table(dynamics: Mapping[str, Any]) -> Table:
    """What came of the runs."""
    header = [
        "run",
        "ps",
        "T (K)",
        "P (GPa)",
        "drift (eV/atom/ps)",
        "g minimum",
        "MSD (Å²)",
        "D (Å²/ps)",
        "µs/atom/step",
    ]
    keys = (
        "picoseconds",
        "temperature",
        "pressure",
        "drift",
        "g_minimum",
        "displacement",
        "diffusion",
        "us_per_atom_step",
    )
    rows = []
    for name, run in dynamics.items():
        if isinstance(run, Mapping):
            rows.append([name, *(run.get(key) for key in keys)])
    return f"molecular dynamics of {dynamics['atoms']} atoms", header, rows


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown; the first column is text, None is shown as a dash."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(_text(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    """Three digits, or whole numbers where that is more."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Writes `report.md`, with the figures of the folder."""
    training, phases, dynamics = report["training"], report["phases"], report["dynamics"]
    sizes = training["structures"]
    text = HEAD.format(
        total=sum(sizes.values()),
        **{key: report[key] for key in ("seed", "seconds")},
        **{key: training[key] for key in ("structures", "features", "steps")},
        fit_seconds=training["seconds"],
    )
    for split, metrics in report["errors"].items():
        title, header, rows = error_table(f"{split} structures", metrics)
        text += f"Root mean square errors, {title}:\n\n{markdown(header, rows)}\n"
    text += PARITY + markdown(*phase_table(phases)[1:])
    order = phases["order"]
    text += PHASES.format(
        a={name: "–" if value is None else f"{value:.3f}" for name, value in phases["lattice_constant"].items()},
        order={name: ", ".join(found) for name, found in order.items()},
        verdict=" (the same)" if order["model"] == order["dft"] else "",
        atoms=dynamics["atoms"],
        volume=dynamics["melt"]["volume"],
        hot=dynamics["melt"]["target_temperature"],
    )
    text += markdown(*dynamics_table(dynamics)[1:])
    melt = dynamics["melt"]
    verdict = MOLTEN if melt["molten"] else DIVERGED if "diverged" in melt else SOLID
    text += END.format(molten=verdict.format(**melt))
    write_text(folder / "report.md", text)
