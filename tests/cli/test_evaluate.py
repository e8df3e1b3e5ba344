"""``bpjax evaluate``: what it prints and writes beside the errors by kind of structure (those are in test_cli.py)."""

import json

import ase.io
import jax
import numpy as np
import pytest

from bpjax.cli.main import main
from bpjax.descriptors import ACSF, Radial
from bpjax.io.labels import labels
from bpjax.networks.elemental import MLP
from bpjax.potential.energy import Potential, init
from bpjax.potential.evaluator import Evaluator
from bpjax.potential.store import save
from tests.training.labelled import structures

FRAMES = structures(8)


def committee():
    """A small model of three networks with weights that nobody has fitted."""
    model = Potential(ACSF(("Al", "Cu"), 4.0, g2=(Radial(0.5), Radial(0.1))), MLP(hidden=(4,)), members=3)
    return model, init(model, jax.random.key(0))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Folder of a run on a committee, with its output."""
    folder = tmp_path_factory.mktemp("evaluate")
    save(folder / "m.bpjax", *committee())
    ase.io.write(folder / "in.extxyz", FRAMES)
    return folder


def test_json_and_tables(evaluated, capsys):
    out = evaluated / "e.json"
    arguments = ["evaluate", str(evaluated / "m.bpjax"), str(evaluated / "in.extxyz"), "--dtype", "float64"]
    assert main([*arguments, "--json", str(out)]) == 0
    metrics, text = json.loads(out.read_text()), capsys.readouterr().out
    predicted = Evaluator(*committee(), "float64").evaluate_many(FRAMES)
    errors = [p.forces - labels(atoms).forces for p, atoms in zip(predicted, FRAMES, strict=True)]
    for element, found in metrics["elements"].items():
        mine = np.concatenate([e[atoms.symbols == element] for e, atoms in zip(errors, FRAMES, strict=True)])
        assert found["atoms"] == len(mine) > 0
        assert found["forces_rmse"] == pytest.approx(np.sqrt(np.mean(mine**2)), rel=1e-8)
    largest = int(np.argmax([np.abs(np.linalg.norm(e, axis=1)).max() for e in errors]))
    worst = metrics["worst"]["forces"][0]
    assert (worst["structure"], worst["frame"], worst["group"]) == (
        largest,
        largest,
        FRAMES[largest].info["config_type"],
    )
    z = [(p.energy - labels(a).energy) / p.energy_spread for p, a in zip(predicted, FRAMES, strict=True)]
    assert metrics["calibration"]["energy"]["z_squared"] == pytest.approx(np.mean(np.square(z)), rel=1e-6)
    for title in ("forces by element", "forces by size", "errors against expected errors", "largest errors"):
        assert f"in.extxyz: {title}" in text
    # The table by kind comes first.
    assert text.splitlines()[0] == str(evaluated / "in.extxyz") and text.splitlines()[1].startswith("kind ")


def test_energies_alone(evaluated, capsys):
    """Without forces there are no tables of them."""
    bare = [a.copy() for a in FRAMES]
    for atoms in bare:
        atoms.info["energy"] = 1.0
    ase.io.write(evaluated / "energies.extxyz", bare)
    out = evaluated / "energies.json"
    arguments = ["evaluate", str(evaluated / "m.bpjax"), str(evaluated / "energies.extxyz"), "--dtype", "float64"]
    assert main([*arguments, "--json", str(out)]) == 0
    metrics, text = json.loads(out.read_text()), capsys.readouterr().out
    assert "forces by" not in text and "largest errors" in text
    assert metrics["worst"]["forces"] == [] and metrics["worst"]["energy"][0]["file"].endswith("energies.extxyz")
    assert list(metrics["calibration"]) == ["energy"] and all(entry["atoms"] == 0 for entry in metrics["force_size"])
