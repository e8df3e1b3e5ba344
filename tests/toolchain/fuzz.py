"""Damaged inputs by the thousand: each is read as what it says, or refused in one line.

    python tests/toolchain/fuzz.py [--kinds npz,model,...] [--mutants 2000] [--seed 0] [--json FILE]

For each kind of file a sound one is written, and mutants of it are read: of its bytes (flipped, cut, doubled), of its
tokens (words of text, entries of JSON, headers of arrays), of its values (NaN, infinities, huge and negative numbers, other
types and shapes, with all checksums made anew), and of its structure (lines and members left out, doubled, exchanged). One
JSON line for each kind says how many were refused, read as before, and read as something else; and prints

    traceback     an exception that is none of the package's
    hang          longer than ten seconds
    memory        more than 1 GB for one of them
    unnoticed     bytes of a file with checksums that changed, and with them what was read
    unsound       what was read is not what any valid file says: written anew it is read as something else, or cannot be written

of which there must be none; the exit status is 1 otherwise. It takes minutes, is seeded, and is run by hand when a reader
has changed. A mutant that shows a fault becomes a test of that reader.
"""

import argparse
import contextlib
import hashlib
import io
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
import tracemalloc
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SECONDS, BYTES = 10, 10**9
WORDS = (
    *(
        "nan",
        "inf",
        "-inf",
        "1e400",
        "-1",
        "0",
        "99999999999999999999",
        "1e-320",
        "1_0",
        "\u0663",
        "\uff11",
        '"',
        "'",
        "{",
        "[",
        "=",
        "",
    ),
    *("true", "null", "None", "Xq", "H", "-0", "0x10", "1,5", "\x00", "#", "begin", "end", "  ", "\t", "a" * 3000),
)
VALUES = (None, True, -1, 0, 1.5, 10**30, "x", "", [], {}, [1], {"type": "x"}, 1e308, "nan", [[]], "a" * 3000)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
      write: writes a sound one into an empty folder; returns the file, or one file of several, that is damaged.
      read: reads it; its value is compared by `digest`.
      sound: whether what was read is what a valid file says, from the value and an empty folder: written anew and read again it
        is the same, or the laws hold that such a thing obeys.
      sealed: whether damaged bytes can never be read as something else.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    sound: Callable[[Any, Path], bool]
    sealed: bool = False


# ------------------------------------------------------------------------------------------- mutations


def of_bytes(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not out:
            break
        at, length = rng.randrange(len(out)), rng.choice((1, 2, 4, 16, 200))
        way = rng.randrange(6)
        if way == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            out[at] = rng.choice((0, 255, 127, 128, rng.randrange(256)))
        elif way == 2:
            del out[at : at + length]
        elif way == 3:
            out[at:at] = out[at : at + length]
        elif way == 4:
            del out[at:]
        else:
            out[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f"))
    return bytes(out)


def of_text(text: str, rng: random.Random) -> str:
    """Tokens and lines of a text."""
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 1, 3))):
        at, way = rng.randrange(len(lines)), rng.randrange(8)
        words = lines[at].split(" ")
        word = rng.randrange(len(words))
        if way == 0:
            words[word] = rng.choice(WORDS)
        elif way == 1:
            del words[word]
        elif way == 2:
            words.insert(word, rng.choice(words))
        elif way == 3:
            other = rng.randrange(len(words))
            words[word], words[other] = words[other], words[word]
        elif way == 4 and words[word]:
            place = rng.randrange(len(words[word]))
            words[word] = words[word][:place] + rng.choice(WORDS) + words[word][place + rng.choice((0, 1)) :]
        if way < 5:
            lines[at] = " ".join(words)
        elif way == 5 and len(lines) > 1:
            del lines[at]
        elif way == 6:
            lines.insert(at, rng.choice(lines))
        else:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
    return "\n".join(lines)


def of_json(value: Any, rng: random.Random) -> Any:
    """A copy in which one entry, somewhere, is another one."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        way = rng.randrange(8)
        if way == 0:
            return {name: entry for name, entry in value.items() if name != key}
        if way == 1:
            return {**value, rng.choice(("x", key + "x", "")): value[key]}
        return {**value, key: of_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return rng.choice(
            (
                [*value[:at], *value[at + 1 :]],
                [*value, value[at]],
                [*value[:at], of_json(value[at], rng), *value[at + 1 :]],
            )
        )
    return rng.choice(VALUES)


def of_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """Values, type or shape of an array."""
    way = rng.randrange(10)
    if way == 9 and array.dtype.kind in "iuf":
        return array.astype(rng.choice((array.dtype.newbyteorder(">"), np.longdouble)))
    if way < 3 and array.dtype.kind in "iufc" and array.size:
        out = array.copy()
        with np.errstate(all="ignore"):
            out.flat[rng.randrange(out.size)] = np.float64(
                rng.choice((np.nan, np.inf, 1e300, -1.0, 0.0, 1e-320, 2.0**31))
            ).astype(out.dtype)
        return out
    if way == 3:
        return (
            array.astype(rng.choice(("f4", "i8", "u1", "c16", "U5", "?", "f2")))
            if array.dtype.kind in "biuf"
            else np.zeros(3)
        )
    if way == 4:
        return array.T.copy()
    if way == 5:
        return array.ravel()
    if way == 6:
        return array[: rng.randrange(len(array) + 1)] if array.ndim else array[None]
    if way == 7:
        return array[None]
    return rng.choice(
        (np.zeros((0,)), np.zeros((0, 10**9)), np.array("x"), np.zeros(()), np.zeros((1, 0, 3)), np.zeros(2, "i4,f4"))
    )


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()


def of_header(content: bytes, rng: random.Random) -> bytes:
    """Tokens of what stands before the numbers of an array."""
    head, rest = content[:10], content[10:]
    length = int.from_bytes(head[8:10], "little")
    text = of_text(rest[:length].decode("latin1"), rng).encode("latin1", errors="replace")
    head = head[:8] + (len(text) % 65536).to_bytes(2, "little")
    return rng.choice((head + text, content[:10] + text)) + rest[length:]


def of_archive(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Tokens of headers, values of arrays, or members themselves of an archive; with sound checksums of the zip."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at, way = rng.randrange(len(members)), rng.choice(("tokens", "values", "structure"))
    name, content = members[at]
    if way == "tokens" and name.endswith(".npy"):
        members[at] = name, of_header(content, rng)
    elif way == "tokens":
        members[at] = name, of_text(content.decode(), rng).encode()
    elif way == "values" and name.endswith(".npy"):
        array = of_array(np.load(io.BytesIO(content)), rng)
        members[at] = name, npy(array)
        if any(other == "model.json" for other, _ in members) and rng.random() < 0.8:
            members = declared(members, name, array)
    elif way == "values":
        members[at] = name, json.dumps(of_json(json.loads(content), rng)).encode()
    else:
        change = rng.randrange(4)
        if change == 0:
            del members[at]
        elif change == 1:
            members.append((rng.choice((name, "x.npy", "../x.npy", "x/")), content))
        elif change == 2:
            other = rng.randrange(len(members))
            members[at], members[other] = (name, members[other][1]), (members[other][0], content)
        else:
            members[at] = rng.choice((name + "x", name.upper())), content
    model = any(member == "model.json" for member, _ in members)
    if model and rng.random() < 0.8:
        members = signed(members)
    if any(member == "header.npy" for member, _ in members) and rng.random() < 0.8:
        members = signed_run(members)
    stream = io.BytesIO()
    with (
        warnings.catch_warnings(),
        zipfile.ZipFile(
            stream, "w", zipfile.ZIP_STORED if model else rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        ) as archive,
    ):
        warnings.simplefilter("ignore")
        for member, content in members:
            archive.writestr(member, content)
    return way, stream.getvalue()


def declared(members: list[tuple[str, bytes]], name: str, array: np.ndarray) -> list[tuple[str, bytes]]:
    """Members of a model file with a table that says what a changed array is."""
    header = json.loads(dict(members)["model.json"])
    header["arrays"][name.removeprefix("arrays/").removesuffix(".npy")] = {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
    }
    return [(member, json.dumps(header).encode() if member == "model.json" else data) for member, data in members]


def signed(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Members of a model file with a checksum that is right again; as they are where nobody could make one."""
    from bpjax.io.model_file import _checksum

    files = dict(members)
    try:
        header = json.loads(files["model.json"])
        header["checksum"] = _checksum(header, {name: data for name, data in files.items() if name != "model.json"})
    except (ValueError, TypeError, AttributeError):
        return members
    return [(name, json.dumps(header).encode() if name == "model.json" else data) for name, data in members]


def signed_run(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """The same for a restart file of hopping."""
    from bpjax.excited.hopping_files import _checksum

    try:
        arrays = {name.removesuffix(".npy"): np.load(io.BytesIO(data)) for name, data in members}
        header = json.loads(arrays.pop("header").item())
        native = {name: a if a.dtype.kind == "V" else a.astype(a.dtype.newbyteorder("=")) for name, a in arrays.items()}
        header["checksum"] = _checksum(header, native)
    except Exception:
        return members
    return [(name, npy(np.array(json.dumps(header))) if name == "header.npy" else data) for name, data in members]


def of_toml(text: str, rng: random.Random) -> str:
    """Entries of a training file, as a text that is TOML again."""
    value = of_json(tomllib.loads(text), rng)
    if not isinstance(value, dict):
        return f"x = {_toml(value)}\n"
    return "".join(f"{json.dumps(key)} = {_toml(entry)}\n" for key, entry in value.items())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return '""' if value is None else json.dumps(value)


def mutant(data: bytes, rng: random.Random, toml: bool = False) -> tuple[str, bytes]:
    """The kind of a mutation, and what it makes of a file."""
    if rng.random() < 0.4:
        return "bytes", of_bytes(data, rng)
    if data.startswith(b"PK"):
        return of_archive(data, rng)
    if data.startswith(b"\x93NUMPY") and rng.random() < 0.6:
        if rng.random() < 0.5:
            return "tokens", of_header(data, rng)
        return "values", npy(of_array(np.load(io.BytesIO(data)), rng))
    if toml and rng.random() < 0.6:
        return "values", of_toml(data.decode(), rng).encode()
    try:
        return "text", of_text(data.decode(), rng).encode()
    except UnicodeDecodeError:
        return "bytes", of_bytes(data, rng)


# --------------------------------------------------------------------------------------------- reading


class HangError(BaseException):
    """A reader took too long."""


def _alarm(*_):
    raise HangError


def digest(value: Any) -> str:
    """Hash of anything that a reader returns."""
    found = hashlib.sha256()
    for part in _parts(value):
        found.update(part)
    return found.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    import ase

    if isinstance(value, ase.Atoms):
        results = {} if value.calc is None else value.calc.results
        # In extended XYZ the text 0.0 is a number, a list an array, and a lone { in a comment has no name.
        info = {name: str(np.asarray(entry).tolist()) for name, entry in value.info.items() if name}
        yield from _parts([value.arrays, value.cell.array, value.pbc, results, info])
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield f"{key}:".encode()
            yield from _parts(value[key])
    elif hasattr(value, "_asdict"):
        yield from _parts(value._asdict())
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _parts(entry)
    elif hasattr(value, "__dataclass_fields__"):
        yield type(value).__name__.encode()
        yield from _parts({name: getattr(value, name) for name in value.__dataclass_fields__})
    elif hasattr(value, "shape"):
        array = np.asarray(value)
        yield f"{array.dtype}{array.shape}".encode() + array.tobytes()
    else:
        yield repr(value).encode()


def attempt(kind: Kind, path: Path) -> tuple[str, str, Any]:
    """What came of reading a file: "refused", "traceback", "hang", "memory", or "read"; its message, or the digest; the value."""
    from bpjax.errors import BpjaxError

    tracemalloc.reset_peak()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            value = kind.read(path)
            found = "read", digest(value), value
    except HangError:
        return "hang", "", None
    except BpjaxError as error:
        text = str(error)
        found = ("refused", text, None) if "\n" not in text else ("traceback", f"several lines: {text}", None)
    except Exception:
        found = "traceback", traceback.format_exc(limit=-3), None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if tracemalloc.get_traced_memory()[1] > BYTES or grown > BYTES:
        return "memory", f"{max(tracemalloc.get_traced_memory()[1], grown):.3g}", None
    return found


def judged(kind: Kind, value: Any, folder: Path) -> tuple[str, str]:
    """ "other" for a value that a valid file could have, else "unsound" and why."""
    folder.mkdir(exist_ok=True)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            return ("other", "") if kind.sound(value, folder) else ("unsound", "is another when written anew")
    except Exception:
        return "unsound", traceback.format_exc(limit=-3)
    finally:
        shutil.rmtree(folder)


def fuzz(name: str, kind: Kind, mutants: int, seed: int, folder: Path) -> dict[str, Any]:
    """Mutants of one kind of file."""
    rng = random.Random(f"{name} {seed}")
    home = folder / name
    home.mkdir()
    path = kind.write(home)
    data = path.read_bytes()
    status, sound, value = attempt(kind, path)
    assert status == "read", (name, status, sound)
    status, text = judged(kind, value, folder / "again")
    assert status == "other", (name, text)
    counts: Counter[str] = Counter()
    faults = []
    begun = time.monotonic()
    for number in range(mutants):
        way, changed = mutant(data, rng, path.suffix == ".toml")
        path.write_bytes(changed)
        status, text, value = attempt(kind, path)
        if status == "read" and text == sound:
            status = "same"
        elif status == "read":
            status, text = judged(kind, value, folder / "again")
            if kind.sealed and way == "bytes":
                status = "unnoticed"
        counts[status] += 1
        if status not in ("same", "other", "refused"):
            kept = folder / f"{name}-{number}{path.suffix}"
            kept.write_bytes(changed)
            faults.append({"mutant": number, "way": way, "fault": status, "file": str(kept), "text": text})
    path.write_bytes(data)
    return {"kind": name, "mutants": mutants, **counts, "seconds": round(time.monotonic() - begun, 1), "faults": faults}


# ----------------------------------------------------------------------------------------- kinds of files


def kinds() -> dict[str, Kind]:
    """All of them."""
    from bpjax.cli.describe import read_spec
    from bpjax.descriptors.choose import descriptor_for
    from bpjax.excited.hopping_files import load_run, save_run
    from bpjax.excited.library import find_model, read_hessian
    from bpjax.excited.sharc import read_geometry, read_lvc_template, read_velocities
    from bpjax.excited.states_data import METHANIMINIUM, StatesFormat, read_states
    from bpjax.excited.states_store import load_states, save_states
    from bpjax.interop.n2p2 import read_potential
    from bpjax.io.labels import labels
    from bpjax.io.runner_writer import write_runner
    from bpjax.io.structures import read_structures, write_structures
    from bpjax.potential import load, save
    from bpjax.training.prepare import read_run
    from bpjax.training.sweep_files import PENDING, read_pending, read_trials, write_trials
    from bpjax.training.sweep_options import read_sweep

    molecule = ROOT / "data" / "methaniminium"
    moving = find_model(str(molecule / "diabatic.bpjax"))

    def copied(source: Path) -> Callable[[Path], Path]:
        return lambda folder: Path(shutil.copy(source, folder / source.name))

    def structures(path: Path) -> Any:
        return read_structures(path, units="ev-angstrom")

    def again(name: str, write: Callable[[Path, Any], Any], read: Callable[[Path], Any]) -> Callable[[Any, Path], bool]:
        """Whether a value that is written and read is the same."""

        def same(value: Any, folder: Path) -> bool:
            write(folder / name, value)
            return digest(read(folder / name)) == digest(value)

        return same

    def charged(path: Path) -> Any:
        """With the charge that the writer states where a file does not."""
        frames = structures(path)
        for atoms in frames:
            atoms.info.setdefault("charge", 0.0)
        return frames

    def labelled(frames: Any) -> Any:
        """What is computed with: atoms, cell, labels."""
        return [(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, labels(atoms)) for atoms in frames]

    def same_labelled(frames: Any, folder: Path) -> bool:
        write_structures(folder / "a.extxyz", frames)
        return digest(labelled(structures(folder / "a.extxyz"))) == digest(labelled(frames))

    def bare(atoms: Any) -> Any:
        """Without what LAMMPS alone knows, such as the numbers of the atoms."""
        return type(atoms)(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)

    frames = again("a.extxyz", write_structures, structures)
    same_run = again("r.npz", save_run, load_run)
    in_ev = StatesFormat("ev", "angstrom", couplings="h", coupling_kind="interstate", dipoles="mu", phases="arbitrary")
    vibronic = ROOT.parent / "shared" / "reference" / "physics" / "so2_lvc"
    found = {
        "npz": Kind(_npz, structures, frames),
        "states": Kind(
            _states,
            lambda path: read_states(path, METHANIMINIUM),
            again("s.npz", _write_states, lambda path: read_states(path, in_ev)),
        ),
        "hessian": Kind(copied(molecule / "hessian.npz"), lambda path: read_hessian(path, moving), _modes_are_normal),
        "restart": Kind(_restart, load_run, lambda run, folder: same_run(run, folder) and _goes_on(run), sealed=True),
        "model": Kind(_model, load, again("m.bpjax", lambda path, value: save(path, *value), load), sealed=True),
        "diabatic": Kind(
            _diabatic,
            load_states,
            again("d.bpjax", lambda path, value: save_states(path, *value), load_states),
            sealed=True,
        ),
        "extxyz": Kind(_extxyz, structures, frames),
        "runner": Kind(
            _runner,
            charged,
            again("a.data", lambda path, value: write_runner(path, value, "ev-angstrom"), charged),
        ),
        "lammps": Kind(_lammps, lambda path: [bare(atoms) for atoms in structures(path)], frames),
        "n2p2": Kind(
            _n2p2,
            lambda path: read_potential(path.parent, "hartree-bohr"),
            again("m.bpjax", lambda path, value: save(path, *value), load),
        ),
        "training": Kind(_training, lambda path: read_run(path)[0], _options_are_plain),
        "sweep": Kind(
            _sweep, lambda path: read_sweep(path)[:2], lambda value, folder: _options_are_plain(value[0], folder)
        ),
    }
    found |= {name: Kind(_by_ase(file, name), structures, same_labelled) for name, file in BY_ASE.items()}
    found |= {
        name: Kind(
            _n2p2_part(file),
            lambda path: read_potential(path.parent, "hartree-bohr"),
            again("m.bpjax", lambda path, value: save(path, *value), load),
        )
        for name, file in (("scaling", "scaling.data"), ("weights", "weights.*.data"))
    }
    found |= {
        "descriptor": Kind(
            _descriptor, lambda path: descriptor_for(read_spec(path), ("H", "O"), str(path)), _options_are_plain
        ),
        "trials": Kind(
            _trials,
            lambda path: read_trials(path.parent),
            again(
                "trials.jsonl", lambda path, value: write_trials(path.parent, value), lambda p: read_trials(p.parent)
            ),
        ),
        "pending": Kind(
            lambda folder: _written(
                folder / PENDING, '[[4, {"optimizer.seed": 1, "network.hidden": [8, 8]}], [5, {}]]'
            ),
            lambda path: read_pending(path.parent),
            lambda value, _: all(type(number) is int and isinstance(point, dict) for number, point in value),
        ),
        "features": Kind(*_features()),
        "checkpoint": Kind(*_checkpoint(), sealed=True),
    }
    if vibronic.is_dir():
        found |= {
            "lvc": Kind(_lvc(vibronic, "LVC.template"), read_lvc_template, _matrix_is_hermitian),
            "modes": Kind(
                _lvc(vibronic, "V.txt"),
                lambda path: read_lvc_template(path.parent / "LVC.template"),
                _matrix_is_hermitian,
            ),
            "geom": Kind(_lvc(vibronic, "geom"), read_geometry, again("geom", _write_geometry, read_geometry)),
            "veloc": Kind(
                _lvc(vibronic, "veloc"),
                lambda path: read_velocities(path, 3),
                again("veloc", lambda path, v: np.savetxt(path, v, "%.17g"), lambda path: read_velocities(path, 3)),
            ),
        }
    return found


BY_ASE = {
    "traj": "a.traj",
    "db": "a.db",
    "json": "a.json",
    "lammps-dump-text": "a.lammpstrj",
    "xyz": "a.xyz",
    "vasp": "POSCAR",
}
"""Formats that ASE reads, by its names."""


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _by_ase(file: str, name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        import ase.io
        from ase.build import bulk
        from ase.calculators.singlepoint import SinglePointCalculator

        atoms = bulk("Cu", cubic=True)
        if name == "lammps-dump-text":
            rows = "".join(f"{n + 1} Cu {x:.4f} {y:.4f} {z:.4f}\n" for n, (x, y, z) in enumerate(atoms.positions))
            head = "ITEM: TIMESTEP\n{}\nITEM: NUMBER OF ATOMS\n4\nITEM: BOX BOUNDS pp pp pp\n0 3.61\n0 3.61\n0 3.61\n"
            frame = head + "ITEM: ATOMS id element x y z\n" + rows
            return _written(folder / file, frame.format(0) + frame.format(10))
        if name not in ("xyz", "vasp"):
            atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.ones((4, 3)), stress=np.arange(6.0))
        ase.io.write(folder / file, atoms if name == "vasp" else [atoms, atoms], format=name)
        return folder / file

    return write


def _n2p2_part(file: str) -> Callable[[Path], Path]:
    return lambda folder: sorted(_n2p2(folder).parent.glob(file))[0]


def _descriptor(folder: Path) -> Path:
    text = 'type = "ACSF"\ncutoff = 5.0\n'
    text += "g2 = [{ eta = 0.5 }, { eta = 4.0, r_s = 2.5 }]\ng4 = [{ eta = 0.01, zeta = 2.0, lam = 1.0 }]\n"
    return _written(folder / "spec.toml", text)


def _trials(folder: Path) -> Path:
    from bpjax.training.sweep_files import TRIALS, Trial, write_trials

    point = {"optimizer.learning_rate": 1e-3, "network.hidden": (8, 8), "network.activation": "silu"}
    done = Trial(0, point, "complete", 10, 0.5, {"forces_rmse": 0.5}, ((5, 0.7), (10, 0.5)), 12.0)
    write_trials(folder, [done, Trial(1, point, "diverged", 3, None, {})])
    return folder / TRIALS


def _features() -> tuple[Callable[[Path], Path], Callable[[Path], Any], Callable[[Any, Path], bool]]:
    """Features of a few structures on disk: any numbers of the right type and shape are some."""
    from bpjax.descriptors import DefaultACSF
    from bpjax.training import streaming
    from bpjax.training.dataset import build_dataset
    from bpjax.training.inputs import stored_shapes
    from tests.training.labelled import structures

    descriptor = DefaultACSF(cutoff=4.5, radial=2, angular=1, zeta=(1.0,)).build(("Al", "Cu"))
    data = build_dataset(structures(2), ("Al", "Cu"), descriptor.cutoff)
    shapes = stored_shapes(data, descriptor.size)._asdict()

    def write(folder: Path) -> Path:
        streaming.build(descriptor, data, folder)
        return folder / "G.npy"

    def read(path: Path) -> Any:
        return streaming.build(descriptor, data, path.parent).arrays

    def right(value: Any, folder: Path) -> bool:
        return all((a.shape, a.dtype) == shapes[name] for name, a in value._asdict().items())

    return write, read, right


def _checkpoint() -> tuple[Callable[[Path], Path], Callable[[Path], Any], Callable[[Any, Path], bool]]:
    """A state that was checkpointed, for a run of the same options."""
    from bpjax.training.checkpoint import NAME, read_checkpoint, write_checkpoint

    rng = np.random.default_rng(0)
    state = {"step": np.int32(7), "params": [rng.normal(size=(3, 4)), rng.normal(size=4).astype("f4")]}
    identity = {"options": {"seed": 1, "loss": {"forces": 1.0}}, "data": "0123"}

    def write(folder: Path) -> Path:
        write_checkpoint(folder / NAME, state, identity)
        return folder / NAME

    def read(path: Path) -> Any:
        return read_checkpoint(path, state, identity)

    def same(value: Any, folder: Path) -> bool:
        write_checkpoint(folder / NAME, value, identity)
        return digest(read(folder / NAME)) == digest(value)

    return write, read, same


def _write_geometry(path: Path, geometry: tuple[tuple[str, ...], np.ndarray]) -> None:
    rows = zip(*geometry, strict=True)
    path.write_text("".join(f"{symbol} 1 {x:.17g} {y:.17g} {z:.17g} 1\n" for symbol, (x, y, z) in rows))


def _write_states(path: Path, data: Any) -> None:
    """In the units of the package."""
    fields = {"Z": data.numbers, "R": data.positions, "E": data.energies, "tag": np.array(data.tags)}
    named = {"G": data.gradients, "h": data.couplings, "mu": data.dipoles}
    np.savez(path, **fields, **{name: a for name, a in named.items() if a is not None})


def _modes_are_normal(modes: Any, folder: Path) -> bool:
    """The laws of normal modes: orthonormal, with real frequencies in ascending order."""
    K, w = np.asarray(modes.modes), np.asarray(modes.frequencies)
    return bool((w > 0).all() and (np.diff(w) >= 0).all() and np.abs(K.T @ K - np.eye(len(w))).max() < 1e-8)


def _options_are_plain(options: Any, folder: Path) -> bool:
    """As plain values, as which a model file keeps them, they are the same options."""
    from bpjax.spec import from_spec, to_spec

    return from_spec(type(options), to_spec(options)) == options


def _matrix_is_hermitian(model: Any, folder: Path) -> bool:
    H = np.asarray(model(np.asarray(model.modes.reference)))
    return bool(np.isfinite(H).all() and np.abs(H - H.conj().T).max() < 1e-12)


def _npz(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    fields = {
        "z": np.array([8, 1, 1]),
        "R": rng.normal(size=(4, 3, 3)) * 3,
        "E": rng.normal(size=4),
        "F": rng.normal(size=(4, 3, 3)),
    }
    np.savez(folder / "a.npz", **fields, cell=9 * np.eye(3), group=np.array(["a", "b", "a", "b"]))
    return folder / "a.npz"


def _states(folder: Path) -> Path:
    with np.load(ROOT / "data" / "methaniminium" / "ch2nh2_sa3cas43_631gs.npz") as archive:
        found = {name: archive[name] for name in archive.files}
    n = len(found["R"])
    np.savez(folder / "s.npz", **{name: a[:3] if a.ndim and len(a) == n else a for name, a in found.items()})
    return folder / "s.npz"


def _restart(folder: Path) -> Path:
    from bpjax.excited.hopping_files import save_run
    from bpjax.excited.hopping_options import HoppingOptions
    from bpjax.excited.hopping_run import Hopping
    from bpjax.excited.library import find_model

    model = find_model("tully1")
    hopping = Hopping(model.model, model.masses, HoppingOptions(timestep_fs=0.5, units=model.units))
    one = np.ones((4, 1))
    save_run(folder / "restart.npz", hopping.run(hopping.start(-9 * one, 20 / model.masses * one, 0), 4, 2, keep=True))
    return folder / "restart.npz"


def _goes_on(run: Any) -> bool:
    """Whether it can be resumed; a run of other coordinates is none of this model, which the command line says."""
    from bpjax.errors import DivergedError
    from bpjax.excited.hopping_run import Hopping
    from bpjax.excited.library import find_model

    model = find_model("tully1")
    if run.state.R.shape[1:] != (1,) or run.state.E.shape[1] != 2 or run.options.units != model.units:
        return True
    hopping = Hopping(model.model, model.masses, run.options, dtype=str(run.state.R.dtype))
    try:
        return len(hopping.run(run, run.interval, run.interval).times_fs) == len(run.times_fs) + 1
    except DivergedError:  # of velocities of 1e300, say: a trajectory that cannot go on
        return True


def _model(folder: Path) -> Path:
    from bpjax.potential import save
    from tests.small_model import MODEL, small_params

    save(folder / "m.bpjax", MODEL, small_params())
    return folder / "m.bpjax"


def _diabatic(folder: Path) -> Path:
    from bpjax.excited.states_store import load_states, save_states

    save_states(folder / "d.bpjax", *load_states(ROOT / "data" / "methaniminium" / "diabatic.bpjax"))
    return folder / "d.bpjax"


def _extxyz(folder: Path) -> Path:
    from bpjax.io.structures import write_structures
    from tests.training.labelled import structures

    write_structures(folder / "a.extxyz", structures(6))
    return folder / "a.extxyz"


def _runner(folder: Path) -> Path:
    from tests.io.runner_text import TEXT

    (folder / "a.data").write_text(TEXT)
    return folder / "a.data"


def _lammps(folder: Path) -> Path:
    rows = "".join(f"{n} {1 + n % 2} {n * 0.5:.3f} {n * 0.7:.3f} 0.0\n" for n in range(1, 7))
    head = "# LAMMPS data file\n\n6 atoms\n2 atom types\n0.0 9.0 xlo xhi\n0.0 9.0 ylo yhi\n0.0 9.0 zlo zhi\n"
    (folder / "a.data").write_text(f"{head}\nMasses\n\n1 63.546  # Cu\n2 26.98\n\nAtoms # atomic\n\n{rows}")
    return folder / "a.data"


def _n2p2(folder: Path) -> Path:
    """The first file of the folder; of the others the same mutations are tested with hypothesis."""
    from tests.interop.n2p2.example import write_example

    write_example(folder / "nnp")
    return folder / "nnp" / "input.nn"


def _training(folder: Path) -> Path:
    from bpjax.io.structures import write_structures
    from tests.training.labelled import structures, training_file

    write_structures(folder / "train.extxyz", structures(12))
    (folder / "train.toml").write_text(training_file(10, 10))
    return folder / "train.toml"


SPACE = """
[sweep]
trials = 4
[sweep.space]
"optimizer.learning_rate" = { low = 1e-4, high = 1e-2, log = true }
"optimizer.start_seed" = { low = 0, high = 1000, integer = true }
"network.hidden" = [[16, 16], [32, 32]]
"""


def _sweep(folder: Path) -> Path:
    path = _training(folder)
    path.write_text(path.read_text() + SPACE)
    return path


def _lvc(source: Path, name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        shutil.copytree(source, folder / "lvc", copy_function=shutil.copyfile)
        (folder / "lvc").chmod(0o755)
        return folder / "lvc" / name

    return write


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kinds", help="comma between them; all by default")
    parser.add_argument("--mutants", type=int, default=2000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the lines")
    options = parser.parse_args()
    import jax

    jax.config.update("jax_enable_x64", True)
    known = kinds()
    chosen = options.kinds.split(",") if options.kinds else list(known)
    signal.signal(signal.SIGALRM, _alarm)
    folder, failed, lines = Path(tempfile.mkdtemp(prefix="fuzz-")), False, []
    tracemalloc.start(1)
    for name in chosen:
        found = fuzz(name, known[name], options.mutants, options.seed, folder)
        for fault in found.pop("faults"):
            failed = True
            print(
                f"{name} {fault['mutant']} ({fault['way']}): {fault['fault']}: {fault['file']}\n{fault['text']}",
                file=sys.stderr,
            )
        lines.append(json.dumps(found))
        print(lines[-1], flush=True)
    if options.json:
        options.json.write_text("".join(f"{line}\n" for line in lines))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
