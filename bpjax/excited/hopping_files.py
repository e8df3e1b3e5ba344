"""Runs of surface hopping in files: restart as a numpy archive, populations as CSV or JSON, hops as JSON lines, trajectories."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Sequence
from typing import Any

import ase
import numpy as np

from bpjax.errors import FormatError
from bpjax.excited.hopping import HALVINGS, PARTS, HopLog, HoppingState
from bpjax.excited.hopping_options import HoppingOptions
from bpjax.excited.hopping_run import HOP, HoppingRun, Records
from bpjax.excited.hopping_watch import Watched
from bpjax.io.archive import Archive, Entry
from bpjax.io.atomic import atomic_path, write_npz, write_text
from bpjax.io.trajectory import TrajectoryWriter
from bpjax.precision import name_of_dtype, unrounded
from bpjax.spec import from_spec, to_spec

_Path = str | os.PathLike[str]

VERSION = 5
"""Of the restart file."""

_PARTS = {"log": HopLog, "watched": Watched}
"""Of the state, with fields of their own."""

_WHAT = "a restart file of surface hopping"


def save_run(path: _Path, run: HoppingRun) -> None:
    """Writes a run, whole or not at all: everything that is needed to go on bit for bit, and its records.

    Raises:
      BpjaxError: the file cannot be written.
    """
    arrays = {f"state.{name}": value for name, value in run.state._asdict().items() if name not in _PARTS}
    for part in _PARTS:
        arrays |= {f"{part}.{name}": value for name, value in getattr(run.state, part)._asdict().items()}
    arrays |= {f"records.{name}": value for name, value in run.records._asdict().items() if value is not None}
    values = {name: np.asarray(value) for name, value in arrays.items()} | {"times_fs": run.times_fs, "hops": run.hops}
    header = {"version": VERSION, "options": to_spec(run.options), "interval": run.interval, "identity": run.identity}
    header["checksum"] = _checksum(header, values)
    write_npz(path, values | {"header": np.array(json.dumps(header))})


def precision_of_run(path: _Path) -> str:
    """The precision of a run that `save_run` wrote: "float32" or "float64".

    Raises:
      FormatError: no such file, or another one.
    """
    with Archive(path, _WHAT) as archive:
        return name_of_dtype(archive.array("state.R", Entry("f")).dtype)


def _checksum(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of what the header says, beside the checksum itself, and of all arrays."""
    said = {name: value for name, value in header.items() if name != "checksum"}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(
            f"\0{name}\0{array.dtype.descr}\0{array.shape}\0".encode() + np.ascontiguousarray(array).tobytes()
        )
    return f"sha256:{digest.hexdigest()}"


def load_run(path: _Path) -> HoppingRun:
    """Reads what `save_run` wrote.

    Raises:
      FormatError: no such file, no file of this kind, or a damaged one.
    """
    with Archive(path, _WHAT) as archive:
        header = _header(archive)
        options = from_spec(HoppingOptions, header["options"], os.fspath(path))
        R = archive.array("state.R", Entry("f"))
        E = archive.array("state.E", Entry("f", (len(R), None) if R.ndim else ()))
        slots = archive.array("log.step", Entry("i", (len(R), None)))
        closest = archive.array("watched.closest", Entry("f", (len(R), None)))
        times = archive.array("times_fs", Entry("f", (None,), finite=True))
        wanted = _entries(len(R), E.shape[1], R.shape[1:], slots.shape[1], closest.shape[1], len(times))
        kept = "records.R" in archive.arrays
        found = {
            name: archive.array(name, entry)
            for name, entry in wanted.items()
            if kept or name not in ("records.R", "records.v")
        }
        found["times_fs"] = times
        _check_values(archive, found, E.shape[1], slots.shape[1])
        if header["checksum"] != _checksum(header, found):
            raise FormatError(path, "was changed after it was written: its content has another checksum")
    parts = {
        part: kind(**{name: unrounded(found[f"{part}.{name}"]) for name in kind._fields})
        for part, kind in _PARTS.items()
    }
    fields = [name for name in HoppingState._fields if name not in _PARTS]
    state = HoppingState(**{name: unrounded(found[f"state.{name}"]) for name in fields}, **parts)
    records = Records(**{name: found.get(f"records.{name}") for name in Records._fields})
    return HoppingRun(times, records, found["hops"], state, options, header["interval"], header["identity"])


def _check_values(archive: Archive, found: dict[str, np.ndarray], states: int, slots: int) -> None:
    """Raises where numbers cannot be those of a run: in mixed precision, of no trajectory, states that are none, ..."""
    times, real = found["times_fs"], found["state.R"].dtype
    if not len(times) or not len(found["state.R"]):
        raise archive.fault("state.R", "is of no trajectory, or there are no records")
    if (np.diff(times) <= 0).any():
        raise archive.fault("times_fs", "must ascend")
    precise = {"f": real, "c": np.result_type(real, np.complex64), "i": np.dtype(np.int32), "u": np.dtype(np.uint32)}
    for name, array in found.items():
        if name not in ("times_fs", "hops") and array.dtype != precise.get(array.dtype.kind, array.dtype):
            raise archive.fault(name, f"holds {array.dtype}, not {precise[array.dtype.kind]} as the others")
    for name, most in (
        *((name, states - 1) for name in ("state.active", "records.active", "log.source", "log.target")),
        *(("log.count", slots), ("state.part", PARTS - 1), ("state.level", HALVINGS), ("state.step", None)),
    ):
        low, high = found[name].min(initial=0), found[name].max(initial=0)
        if low < 0 or (most is not None and high > most):
            raise archive.fault(
                name, f"holds {low if low < 0 else high}; allowed are 0 to {'any' if most is None else most}"
            )


def _header(archive: Archive) -> dict[str, Any]:
    """Version, options, interval, identity and checksum."""
    text = archive.array("header", Entry("U", ())).item()
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise archive.fault("header", str(error)) from None
    version = header.get("version") if isinstance(header, dict) else None
    if version != VERSION:
        raise FormatError(archive.path, f"is of version {version}; this program reads version {VERSION}")
    interval, identity = header.get("interval"), header.get("identity")
    if not (isinstance(interval, int) and interval > 0 and isinstance(identity, dict)) or not {
        "options",
        "checksum",
    } <= set(header):
        raise archive.fault("header", "must have options, identity, checksum, and a positive interval")
    return header


def _entries(T: int, S: int, at: tuple[int, ...], slots: int, pairs: int, records: int) -> dict[str, Entry]:
    """What each array must be, for so many trajectories, states, coordinates, slots of the log, pairs of elements, records."""
    moving, levels = Entry("f", (T, *at), finite=True), Entry("f", (T, S), finite=True)
    one, row = Entry("i", (T,)), (records, T)
    state = {
        **dict.fromkeys(("R", "v", "force"), moving),
        **dict.fromkeys(("E", "earlier"), levels),
        **dict.fromkeys(("active", "step", "part", "level", "outcome", "mark"), one),
        **dict.fromkeys(("energy", "drift"), Entry("f", (T,), finite=True)),
        "U": Entry("fc", (T, S, S), finite=True),
        "C": Entry("c", (T, S), finite=True),
        "key": Entry("u", (T, 2)),
    }
    log = {
        "count": one,
        **dict.fromkeys(("step", "source", "target"), Entry("i", (T, slots))),
        "gap": Entry("f", (T, slots)),
        "accepted": Entry("b", (T, slots)),
    }
    kept = {
        "active": Entry("i", row),
        **dict.fromkeys(("adiabatic", "diabatic"), Entry("f", (*row, S))),
        **dict.fromkeys(("potential", "kinetic"), Entry("f", row)),
        **dict.fromkeys(("R", "v"), Entry("f", (*row, *at))),
    }
    watched = {"closest": Entry("f", (T, pairs)), "outside": one, "astray": one}
    parts = {"state": state, "log": log, "watched": watched, "records": kept}
    found = {f"{part}.{name}": entry for part, entries in parts.items() for name, entry in entries.items()}
    return found | {"hops": Entry(shape=(None,), dtype=HOP)}


def population_table(run: HoppingRun) -> dict[str, Any]:
    """Columns by name: time_fs, for each state i the population_i, error_i, amplitude_i, diabatic_i, diabatic_error_i, and going:
    the number of trajectories that count. Where some have gone astray also sound_population_i and sound_error_i, of those that
    had not by then, and sound, their number.
    """
    found = run.populations()
    columns: dict[str, Any] = {"time_fs": run.times_fs}
    names = ("population", "error", "amplitude", "diabatic", "diabatic_error")
    for name, values in zip(names, found[: len(names)], strict=True):
        columns |= {f"{name}_{i}": values[:, i] for i in range(values.shape[1])}
    columns["going"] = found.number
    if run.astray:
        sound = run.populations(run.sound)
        for name, values in (("sound_population", sound.counts), ("sound_error", sound.errors)):
            columns |= {f"{name}_{i}": values[:, i] for i in range(values.shape[1])}
        columns["sound"] = sound.number
    return columns


def write_populations(path: _Path, run: HoppingRun) -> None:
    """Writes `population_table` as JSON if the name ends in .json, with null for NaN, else as CSV."""
    table = {name: np.asarray(values).tolist() for name, values in population_table(run).items()}
    if os.fspath(path).endswith(".json"):
        plain = {name: [None if value != value else value for value in values] for name, values in table.items()}
        text = json.dumps(plain | {"trajectories": run.records.active.shape[1]}, indent=1, allow_nan=False) + "\n"
    else:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(table)
        writer.writerows([f"{value:.10g}" for value in row] for row in zip(*table.values(), strict=True))
        text = buffer.getvalue()
    write_text(path, text)


def write_hops(path: _Path, run: HoppingRun) -> None:
    """Writes attempted hops as JSON lines with the fields of `HOP`."""
    lines = [json.dumps({name: hop[name].item() for name in HOP.names or ()}) for hop in run.hops]
    write_text(path, "".join(f"{line}\n" for line in lines))


def write_trajectories(
    path: _Path,
    run: HoppingRun,
    symbols: Sequence[str],
    which: Sequence[int],
    length: float,
    speed: float,
    energy: float,
) -> None:
    """Writes frames of some trajectories of a molecule, one trajectory after the other, as extended XYZ; of lost ones those
    before they were.

    Args:
      path: the file.
      run: made with `keep`.
      symbols: elements of the atoms.
      which: numbers of the trajectories.
      length, speed, energy: of the model in A, in ASE's unit of velocity, and in eV.
    """
    R, v, going = run.records.R, run.records.v, run.going
    with atomic_path(path) as temporary, TrajectoryWriter(temporary, overwrite=True) as writer:
        for number in which:
            for n in np.flatnonzero(going[:, number]):
                atoms = ase.Atoms(list(symbols), positions=R[n, number] * length)
                atoms.set_velocities(v[n, number] * speed)
                values = {
                    name: float(getattr(run.records, name)[n, number]) * energy for name in ("potential", "kinetic")
                }
                state = int(run.records.active[n, number])
                writer.write(atoms, trajectory=int(number), time_fs=float(run.times_fs[n]), state=state, **values)
