"""Reading a file of many structures, checking them, splitting, and the look at the data before training: seconds and memory.

    python tests/benchmarks/look_at_data.py [--frames 100000] [--atoms 20] [--file FILE]

The structures are cubic cells of hydrogen and oxygen, each of its own size, with the energies and forces of a repulsion between
nearest images; FILE (a temporary one by default) is written first and not counted. Memory is what the process takes at most.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from bpjax import machine
from bpjax.training import DataOptions, prepare


def write(path: Path, frames: int, atoms: int) -> None:
    """Writes the structures as extended XYZ."""
    rng = np.random.default_rng(0)
    edge = int(np.ceil(atoms ** (1 / 3)))
    sites = 2.7 * np.array(list(np.ndindex(edge, edge, edge)))[:atoms]
    symbols = [("O", "H")[n % 2] for n in range(atoms)]
    row = "%s" + " %.8f" * 6 + "\n"
    with path.open("w") as file:
        for _ in range(frames):
            scale = 1 + 0.03 * rng.normal()
            L, R = 2.7 * edge * scale, sites * scale + rng.normal(scale=0.15, size=(atoms, 3))
            d = R[:, None] - R
            d -= L * np.round(d / L)
            r = np.sqrt((d**2).sum(axis=-1)) + 1e3 * np.eye(atoms)
            pair = (2.0 / r) ** 6
            F = (12 * pair / r**2)[:, :, None] * d
            columns = zip(symbols, *R.T, *F.sum(axis=1).T, strict=True)
            lattice = f"{L:.8f} 0 0 0 {L:.8f} 0 0 0 {L:.8f}"
            file.write(f'{atoms}\nLattice="{lattice}" Properties=species:S:1:pos:R:3:forces:R:3 ')
            file.write(f"energy={pair.sum() - 10 * atoms:.8f}\n" + "".join(row % values for values in columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--atoms", type=int, default=20)
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.file or Path(folder) / "many.extxyz"
        if not path.exists():
            write(path, options.frames, options.atoms)
        machine.reset_memory_peak()
        began = time.perf_counter()
        found = prepare(DataOptions(train=(path.name,)), path.parent, 0)
        seconds = time.perf_counter() - began
    assert found.report is not None
    line = {
        "frames": len(found.train) + len(found.validation),
        "atoms": options.atoms,
        "seconds": round(seconds, 1),
        "memory_gb": machine.memory_peak_gb(),
        "findings": [finding.message for finding in found.report.findings],
        "cores": machine.cores(),
        "versions": machine.versions(),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
