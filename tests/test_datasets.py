import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bpjax import datasets
from bpjax.errors import BpjaxError
from bpjax.io.labels import group_of, require_labels
from bpjax.io.structures import read_structures

ROOT = Path(__file__).resolve().parent.parent


def test_names_and_path():
    assert "silicon" in datasets.names()
    assert (datasets.path("silicon") / "README.md").is_file()


@pytest.mark.parametrize("name", ["silicone", "", "..", "silicon/..", "../data/silicon"])
def test_unknown_name_lists_those_available(name):
    with pytest.raises(BpjaxError, match=r"unknown data set '.*'; available: .*silicon"):
        datasets.path(name)


def test_incomplete_installation_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_PACKAGE", tmp_path / "bpjax")
    with pytest.raises(BpjaxError, match="is the installation complete"):
        datasets.path("silicon")


def test_data_inside_the_package_come_first(tmp_path, monkeypatch):
    folder = tmp_path / "bpjax" / "_data" / "thing"
    folder.mkdir(parents=True)
    (folder / "README.md").touch()
    monkeypatch.setattr(datasets, "_PACKAGE", tmp_path / "bpjax")
    assert datasets.names() == ["thing"] and datasets.path("thing") == folder


@pytest.mark.parametrize(("split", "count"), [("train", 176), ("val", 27), ("test", 24)])
def test_silicon_is_complete(split, count):
    path = datasets.path("silicon") / f"silicon_{split}.extxyz"
    frames = read_structures(path)
    assert len(frames) == count == len(require_labels(frames, path, stress=True))
    assert {"diamond2", "liquid", "fcc"} <= {group_of(atoms) for atoms in frames}


@pytest.mark.slow
def test_wheel_holds_the_data(tmp_path):
    # Without isolation no network is needed; the build backend comes with the test extra.
    build = "import sys, hatchling.build as b; print(b.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    expected = {f"bpjax/_data/silicon/{path.name}" for path in (ROOT / "data" / "silicon").iterdir()}
    assert expected <= names and "bpjax/py.typed" in names
    assert not any(name.startswith(("tests/", "data/")) for name in names)
    code = "import bpjax, bpjax.datasets as d; print(d.path('silicon'))"
    # From another folder and with the unpacked wheel first: the checkout must not be what is found.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert Path(run.stdout.strip()) == (tmp_path / "site/bpjax/_data/silicon").resolve()
