"""Draws the figures of the README from lines of results.

    python tests/benchmarks/figures.py [FILE.jsonl ...] [-o FOLDER] [--suffix png]

Without files it takes those of `results/`. A figure whose lines are not there is left out, with a line on standard error:

scaling    time per atom and step against the number of atoms        lines of scaling.py
cores      speed-up against the number of cores                      lines of scaling.py --cores
cost       energy and forces by descriptor, on each device           lines of scaling.py, the largest size of each
others     beside other programs                                     lines of others.py
roofline   operations per second against operations per byte         lines of roofline.py
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from bpjax.analysis.plots import COLORS, panels_of, styled, styles

HERE = Path(__file__).resolve().parent


def grouped(lines: Sequence[dict], *names: str) -> dict[tuple, list[dict]]:
    """Lines by the values of some fields, in the order in which these come."""
    found: dict[tuple, list[dict]] = {}
    for line in lines:
        found.setdefault(tuple(line[name] for name in names), []).append(line)
    return found


def usual_cores(lines: Sequence[dict]) -> list[dict]:
    """Of each device, the lines with the number of cores that most of them have."""
    usual = {}
    for (device,), own in grouped(lines, "device").items():
        counts = [line["cores"] for line in own]
        usual[device] = max(set(counts), key=counts.count)
    return [line for line in lines if line["cores"] == usual[line["device"]]]


def shortest(lines: Sequence[dict], by: str) -> list[dict]:
    """Of each value of a field the line of the shortest step, in ascending order: other work on a machine only lengthens it."""
    best = {value: min(own, key=lambda line: line["us_per_atom_step"]) for (value,), own in grouped(lines, by).items()}
    return [best[value] for value in sorted(best)]


@styled
def scaling(lines: Sequence[dict]):
    """Time per atom against the number of atoms: dynamics as lines, energy and forces as open symbols."""
    figure, axes = panels_of(1, size=(4.6, 3.2))
    ax = axes[0, 0]
    by_case = grouped(usual_cores(lines), "descriptor", "device", "dtype")
    for (case, own), (color, marker) in zip(by_case.items(), styles(), strict=False):
        own = shortest(own, "atoms")
        atoms = [line["atoms"] for line in own]
        ax.plot(
            atoms, [line["us_per_atom_step"] for line in own], color=color, marker=marker, ms=4, label=", ".join(case)
        )
        ax.plot(atoms, [line["us_per_atom_evaluation"] for line in own], marker, ms=4, mfc="white", color=color)
    ax.set(xlabel="atoms", ylabel="time (µs/atom)", xscale="log", yscale="log", title="line: MD step; open: E and F")
    figure.legend(loc="outside lower center")
    return figure


def strong(lines: Sequence[dict]) -> list[dict]:
    """Lines of cases that were measured on several numbers of cores."""
    by_case = grouped(lines, "descriptor", "device", "dtype", "atoms")
    return [line for own in by_case.values() if len({line["cores"] for line in own}) > 1 for line in own]


@styled
def cores(lines: Sequence[dict]):
    """Speed-up of a step against the number of cores."""
    figure, axes = panels_of(1, size=(3.6, 2.8))
    ax = axes[0, 0]
    by_case = grouped(lines, "descriptor", "device", "dtype", "atoms")
    most = 1
    for ((name, _, dtype, atoms), own), (color, marker) in zip(by_case.items(), styles(), strict=False):
        own = shortest(own, "cores")
        count = np.array([line["cores"] for line in own])
        speed = np.array([line["atom_steps_per_s"] for line in own])
        ax.plot(count, count[0] * speed / speed[0], color=color, marker=marker, ms=4, label=f"{name}, {dtype}, {atoms}")
        most = max(most, *count.tolist())
    ax.plot([1, most], [1, most], color="0.6", lw=0.8, ls="--", label="ideal")
    ax.set(xlabel="cores", ylabel="speed-up", xticks=sorted({line["cores"] for line in lines}))
    ax.legend()
    return figure


@styled
def cost(lines: Sequence[dict]):
    """Energy and forces by descriptor, one bar for each device and dtype."""
    largest = {
        case: max(own, key=lambda line: line["atoms"])
        for case, own in grouped(usual_cores(lines), "descriptor", "device", "dtype").items()
    }
    names = list(dict.fromkeys(case[0] for case in largest))
    places = list(dict.fromkeys(case[1:] for case in largest))
    figure, axes = panels_of(1, size=(4.8, 0.9 + 0.3 * len(names) * len(places)))
    ax = axes[0, 0]
    height = 0.8 / len(places)
    for n, (place, color) in enumerate(zip(places, cycle(COLORS), strict=False)):
        own = {name: largest[name, *place] for name in names if (name, *place) in largest}
        y = [names.index(name) + (n - (len(places) - 1) / 2) * height for name in own]
        label = ", ".join(place)
        ax.barh(y, [line["us_per_atom_evaluation"] for line in own.values()], height, color=color, label=label)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="energy and forces (µs/atom)")
    ax.invert_yaxis()
    ax.legend()
    return figure


@styled
def others(lines: Sequence[dict]):
    """Energy and forces, or for programs without them values with derivatives, of each program on the same work."""
    works = grouped(lines, "work", "structure")
    figure, axes = panels_of(1, len(works), size=(4.6, 1.2))
    colors = dict(zip(dict.fromkeys(line["program"] for line in lines), cycle(COLORS), strict=False))
    for ax, ((work, structure), own) in zip(axes[:, 0], works.items(), strict=True):
        last = {line["program"]: line for line in own}
        times = [line.get("energy_forces_us", line.get("values_derivatives_us")) for line in last.values()]
        ax.barh(range(len(last)), times, color=[colors[name] for name in last])
        ax.set_yticks(range(len(last)), list(last))
        for y, us in enumerate(times):
            ax.text(us, y, f" {us:,.0f}", va="center", fontsize=7)
        ax.set(xscale="log", title=f"{work}, {structure}", xlim=(min(times) / 3, max(times) * 3))
        ax.invert_yaxis()
    axes[-1, 0].set_xlabel("energy and forces, or values and derivatives (µs/atom)")
    return figure


@styled
def roofline(lines: Sequence[dict]):
    """Kernels under the roof of each device: bandwidth, and the peak of products of matrices."""
    places = grouped(lines, "device", "cores", "dtype")
    figure, axes = panels_of(len(places), size=(3.4, 2.8))
    for ax, ((device, count, dtype), own) in zip(axes[0], places.items(), strict=True):
        last = {line["kernel"]: line for line in own}
        peak, bandwidth = own[-1]["peak_gflops"], own[-1]["bandwidth_gb_s"]
        intensities = [line["operations"] / line["bytes"] for line in last.values()]
        x = np.geomspace(min(0.1, *intensities) / 2, max(peak / bandwidth, *intensities) * 4, 200)
        ax.plot(x, np.minimum(peak, bandwidth * x), color="0.3")
        for (name, line), at, (color, marker) in zip(last.items(), intensities, styles(), strict=False):
            ax.plot(at, line["gflops"], marker, color=color, ms=5, label=f"{name}: {100 * line['fraction']:.0f} %")
        ax.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="10⁹ operations/s")
        ax.set_title(f"{device}, {count} cores, {dtype}")
        ax.legend(title="of the least time, functions counted", title_fontsize=7)
    return figure


FIGURES: dict[str, tuple[Callable, Callable]] = {
    "scaling": (scaling, lambda lines: [line for line in lines if "us_per_atom_step" in line and "descriptor" in line]),
    "cores": (cores, lambda lines: strong(FIGURES["scaling"][1](lines))),
    "cost": (cost, lambda lines: FIGURES["scaling"][1](lines)),
    "others": (others, lambda lines: [line for line in lines if "program" in line and "work" in line]),
    "roofline": (roofline, lambda lines: [line for line in lines if "peak_gflops" in line]),
}
"""Each figure, and which of all lines it shows."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "figures")
    parser.add_argument("--suffix", choices=("png", "pdf", "svg"), default="png")
    options = parser.parse_args()
    lines = []
    for path in options.files or sorted((HERE / "results").glob("*.jsonl")):
        lines += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    options.output.mkdir(exist_ok=True)
    for name, (draw, chosen) in FIGURES.items():
        own = chosen(lines)
        if not own:
            print(f"{name}: left out, no lines", file=sys.stderr)
            continue
        draw(own, path=options.output / f"{name}.{options.suffix}")
        print(options.output / f"{name}.{options.suffix}")


if __name__ == "__main__":
    main()
