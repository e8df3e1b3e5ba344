"""``bpjax describe``: the file that it writes, and what it says of bad input."""

import ase
import numpy as np
import pytest

from bpjax.cli.main import main
from bpjax.descriptors import DefaultACSF
from bpjax.io import atomic
from bpjax.io.atomic import write_npz
from bpjax.io.structures import write_structures
from bpjax.potential.describe import describe
from tests.small_model import MODEL, STRUCTURES, crystal

FULL = """
type = "ACSF"
elements = ["O", "Si"]
cutoff = 4.0
cutoff_kind = "poly2"
g2 = [{eta = 0.1}, {eta = 1.0, r_s = 2.0}]
g5 = [{eta = 0.1, zeta = 2.0, lam = -1.0}]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_structures("in.extxyz", [f() for f in STRUCTURES.values()])
    (tmp_path / "full.toml").write_text(FULL)
    return tmp_path


def run(*arguments):
    return main(["describe", *map(str, arguments)])


def error_line(capsys, *arguments):
    capsys.readouterr()
    assert run(*arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("structures: ")]
    assert len(lines) == 1 and lines[0].startswith("bpjax: error: "), lines
    return lines[0].removeprefix("bpjax: error: ")


def test_writes_what_describe_gives(folder, capsys):
    assert run("in.extxyz", "--descriptor", "full.toml", "-o", "out.npz", "--dtype", "float64") == 0
    frames = [f() for f in STRUCTURES.values()]
    atoms = sum(map(len, frames))
    assert capsys.readouterr().out == f"wrote out.npz: {atoms} atoms, 7 features\n"
    found = np.load("out.npz", allow_pickle=False)
    assert sorted(found) == ["features", "labels", "numbers", "offsets"]
    assert found["features"].dtype == np.float64 and found["labels"].tolist() == list(MODEL.descriptor.labels)
    expected = describe(MODEL.descriptor, frames, "float64")
    offsets = found["offsets"]
    assert len(offsets) == len(frames) + 1
    for n, (frame, G) in enumerate(zip(frames, expected, strict=True)):
        rows = slice(offsets[n], offsets[n + 1])
        np.testing.assert_allclose(found["features"][rows], G, rtol=1e-6, atol=1e-7)  # the file has 8 digits
        np.testing.assert_array_equal(found["numbers"][rows], frame.numbers)
    assert run("in.extxyz", "--descriptor", "full.toml", "-o", "mean.npz", "--average", "outer") == 0
    mean = np.load("mean.npz")
    assert sorted(mean) == ["features", "labels", "offsets"] and mean["features"].dtype == np.float32
    np.testing.assert_allclose(mean["features"], [G.mean(axis=0) for G in expected], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(mean["offsets"], np.arange(len(frames) + 1))


def test_elements_are_those_of_the_structures(folder):
    """Of builders, and where a descriptor does not give them."""
    (folder / "set.toml").write_text('type = "DefaultACSF"\ncutoff = 4.0\nradial = 2\nangular = 1\nzeta = [1.0]\n')
    (folder / "short.toml").write_text(FULL.replace('elements = ["O", "Si"]', ""))
    write_structures("one.extxyz", crystal())
    for name in ("set", "short", "full"):
        assert run("one.extxyz", "--descriptor", f"{name}.toml", "-o", f"{name}.npz") == 0
    built = DefaultACSF(cutoff=4.0, radial=2, angular=1, zeta=(1.0,)).build(("O", "Si"))
    assert np.load("set.npz")["labels"].tolist() == list(built.labels)
    np.testing.assert_array_equal(np.load("short.npz")["features"], np.load("full.npz")["features"])


def test_bad_input(folder, capsys):
    def says(spec="full.toml", structures="in.extxyz", output="out.npz", more=()):
        return error_line(capsys, structures, "--descriptor", spec, "-o", output, *more)

    for name, text in (
        ("network", 'type = "MLP"'),
        ("nothing", "cutoff = 4.0"),
        ("list", 'type = ["ACSF"]'),
        ("wrong", 'type = "ACSF"\ncutof = 4.0'),
        ("range", 'type = "ACSF"\ncutoff = -4.0\ng1 = true'),
        ("narrow", 'type = "DefaultACSF"\ncutoff = 1.0\nradial = 1\nangular = 0'),
        ("silicon", FULL.replace('"O", "Si"', '"Si"')),
        ("broken", "type = "),
    ):
        (folder / f"{name}.toml").write_text(text)
    assert says("network.toml").startswith("network.toml: type: 'MLP' is no descriptor; allowed: ACSF, ")
    assert says("list.toml").startswith("list.toml: type: ('ACSF',) is no descriptor; allowed: ACSF, ")
    assert says("nothing.toml").startswith("nothing.toml: type: missing; allowed: ACSF, ")
    assert "wrong.toml: cutof: unknown option; did you mean 'cutoff'?" in says("wrong.toml")
    assert says("range.toml").startswith("range.toml: ") and "cutoff" in says("range.toml")
    assert "narrow.toml: DefaultACSF cutoff=1.0: must be beyond" in says("narrow.toml")
    assert says("silicon.toml").startswith("in.extxyz: frame 0: atom 0 is O, but the model knows only Si")
    assert says("broken.toml").startswith("broken.toml: ") and "not valid TOML" in says("broken.toml")
    assert says("missing.toml") == "missing.toml: no such file"
    assert says(structures="missing.xyz") == "missing.xyz: no such file"
    assert "must end in .npz" in says(output="out.txt")
    (folder / "old.npz").write_text("old")
    assert "already exists" in says(output="old.npz") and (folder / "old.npz").read_text() == "old"
    assert not (folder / "out.npz").exists()
    assert run("in.extxyz", "--descriptor", "full.toml", "-o", "old.npz", "--overwrite") == 0
    assert "features" in np.load("old.npz")
    assert not list(folder.glob(".tmp*"))


def test_help_and_a_failure_in_the_middle(folder, capsys, monkeypatch):
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: bpjax describe") and "Example: bpjax describe structures.xyz" in out
    (folder / "kept.npz").write_text("kept")

    def full_disk(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(atomic, "_sync", full_disk)
    assert "the disk is full" in error_line(
        capsys, "in.extxyz", "--descriptor", "full.toml", "-o", "kept.npz", "--overwrite"
    )
    assert (folder / "kept.npz").read_text() == "kept" and not list(folder.glob(".tmp*"))


def test_archives_hold_no_objects(tmp_path):
    with pytest.raises(ValueError, match="array 'a' holds objects"):
        write_npz(tmp_path / "a.npz", {"a": np.array([ase.Atoms("H"), None], dtype=object)})
    assert not list(tmp_path.iterdir())
