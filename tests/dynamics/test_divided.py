"""Atoms divided among devices: the numbers of one device, and lists that do not grow with the system."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from bpjax.dynamics import divided_potential, parallel, run_md
from bpjax.dynamics.body import Coordinates
from bpjax.dynamics.cells import bins_of
from bpjax.dynamics.settings import Settings
from bpjax.errors import ConfigError, CutoffError, UnknownSpeciesError
from bpjax.neighbors import pair_list
from tests.dynamics.model import MODEL, crystal, params
from tests.quick_compiler import with_flags
from tests.small_model import MODEL as SILICA
from tests.small_model import STRUCTURES, small_params
from tests.tiers import exhaustive

ROOT = Path(__file__).parents[2]

# Sums of some hundred terms of up to 10 eV are taken in another order, in float64.
ROUNDING = 1e-11


def probe(*kinds):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = with_flags("--xla_force_host_platform_device_count=4")
    command = [sys.executable, str(ROOT / "tests/dynamics/divided_probe.py"), *kinds]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    return {line["kind"]: line for line in map(json.loads, found.stdout.splitlines())}


USUAL = ("skewed_only_four", "program", "few", "npt", "flags")


@cache
def usual():
    """Results of what is not exhaustive, from one process: most of its time it starts."""
    return probe(*USUAL)


def probed(kind):
    return usual()[kind] if kind in USUAL else probe(kind)[kind]


def check_agreement(found):
    assert found["force"] > 1e-3
    assert max(found[name] for name in ("energy", "atomic_energies", "forces", "virial")) < ROUNDING, found
    assert found["outside"] == 0


def check_trajectory(found, devices, rebuilds=2):
    assert found["devices"] == devices
    assert found["rebuilds"][0] >= rebuilds and len(set(found["rebuilds"])) == 1
    # Rounding errors of the forces, which grow with time as all differences do.
    assert max(found["positions"], found["momenta"], found["log"]) < 1e-9 and found["moved"] > 0.05, found


@pytest.mark.slow
def test_four_devices_give_the_numbers_of_one():
    check_agreement(probed("skewed_only_four"))
    program = probed("program")
    assert 0 < program["positions"] < 1e-10 and program["energies"] < 1e-9 and program["moved"] > 0.05
    # Forces, energies and virial are summed; largest counts of neighbours are compared; nothing else is exchanged.
    assert program["all-reduce"] >= 1
    assert all(program[word] == 0 for word in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"))
    assert program["compilations"] == 0 and program["heard"] and program["rebuilds"] >= 2
    assert program["share"] == [0.25] * 4 and program["everywhere"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*exhaustive("skewed", "slab", "cluster", "soap"), "few"])
def test_all_kinds_of_systems_agree(kind):
    check_agreement(probed(kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*exhaustive("nve", "nve_slab", "langevin", "watched", "overflow"), "npt"])
def test_all_kinds_of_runs_agree(kind):
    found = probed(kind)
    check_trajectory(found, [1, 1, 2, 4] if kind.startswith("nve") else [1, 4], rebuilds=1)
    if kind.startswith("nve"):
        assert found["drift"] < 5e-4  # eV per atom and ps; that of one device, by the time step
    assert all(n >= 1 for n in found["overflows"]) == (kind == "overflow")


@pytest.mark.slow
def test_what_does_not_fit_is_flagged():
    found = probed("flags")
    assert not found["fine"] and not found["moved"]
    assert found["slots"] and found["bins"] and found["box"]


# ---------------------------------------------------------------------------------------------- one device


@pytest.mark.parametrize("name", STRUCTURES)
def test_list_is_that_of_the_host(name):
    """Every pair and image, for cells of all kinds."""
    atoms = STRUCTURES[name]()
    c, reach = Coordinates(atoms), SILICA.cutoff + 0.4
    species = np.zeros(len(atoms), np.int32)
    neighbor_fn, _ = divided_potential(
        SILICA, small_params("float64"), c.box, species=species, skin=0.4, pbc=c.pbc, devices=1
    )
    rows = neighbor_fn.allocate(c.start).inner
    assert not bool(rows.did_buffer_overflow)
    order = np.asarray(rows.order)
    real = np.asarray(rows.real)[..., None] & (np.arange(rows.idx.shape[-1]) < np.asarray(rows.count)[..., None])
    i = order[np.broadcast_to(np.asarray(rows.centres)[..., None], real.shape)][real]
    j = order[np.asarray(rows.idx)][real]
    n = np.zeros((len(i), 3)) if rows.shifts is None else np.asarray(rows.shifts)[real]
    a, b, shift = pair_list(c.start @ c.cell, c.cell, atoms.pbc, reach)
    found, expected = (sorted(map(tuple, np.column_stack(p).astype(int).tolist())) for p in ((i, j, n), (a, b, shift)))
    assert len(found) == len(set(found)) > 0 and found == expected


def test_bins_cover_the_search():
    rng = np.random.default_rng(0)
    X = rng.random((5000, 3))
    box = np.diag([70.0, 30.0, 4.0]) + np.triu(rng.random((3, 3)), 1)
    bins = bins_of(box, (True, True, True), X, 6.0)
    height = 1 / np.linalg.norm(np.linalg.inv(box), axis=1)
    assert all(s * w * h >= 6.0 for s, w, h in zip(bins.spread, bins.width, height, strict=True))
    assert bins.counts[0] >= 10 and bins.counts[2] == 1 and bins.spread == (1, 1, 2)
    # A gas in a large cell: no more bins than atoms need.
    assert np.prod(bins_of(100 * box, (True, True, True), X, 6.0).counts) <= 2 * len(X)
    # Runs of bins are slabs across the longest direction.
    assert np.argmax(bins.strides) == 0


@pytest.mark.exhaustive
def test_large_systems_take_this_way_on_one_device(monkeypatch):
    common = {"steps": 20, "temperature": 600.0, "timestep_fs": 2.0, "skin": 0.3, "dtype": "float64"}
    atoms = crystal(3, mixed=True)
    small = run_md(MODEL, params(np.float64), atoms, **common)
    monkeypatch.setattr(parallel, "LARGE", len(atoms))
    large = run_md(MODEL, params(np.float64), atoms, capacity=5, **common)
    assert large.overflows >= 1 and small.overflows == 0
    assert small.rebuilds == large.rebuilds >= 1
    np.testing.assert_allclose(large.atoms.positions, small.atoms.positions, atol=1e-10)
    for name in small.log:
        np.testing.assert_allclose(large.log[name], small.log[name], atol=1e-9)


def test_how_many_devices_are_chosen():
    assert parallel.choose(parallel.LARGE - 1, 1) is None
    large, small = parallel.choose(parallel.LARGE, 1), parallel.choose(3, 1, always=True)
    assert large is not None and large.size == 1 and small is not None and small.size == 1
    worth = parallel.WORTH["cpu"]
    assert parallel.number(4, 2 * worth - 1, None) == 1
    assert parallel.number(4, 3 * worth, None) == 3 and parallel.number(4, 10**6, None) == 4
    assert parallel.number(4, 8, 1) == 1 and parallel.number(4, 8, 3) == 3
    with pytest.raises(ConfigError, match=r"devices: 5, but there are 4"):
        parallel.number(4, 8, 5)
    with pytest.raises(ConfigError, match=r"devices: 4, more than the 3 atoms"):
        parallel.number(4, 3, 4)


@pytest.mark.parametrize("devices", [0, -1])
def test_bad_numbers_of_devices(devices):
    with pytest.raises(ConfigError, match="devices"):
        Settings(devices=devices)


def test_bad_input():
    atoms = crystal(1)
    species, box = np.ones(len(atoms), np.int32), atoms.cell.array.T
    with pytest.raises(ConfigError, match="devices: 1000, but there"):
        run_md(MODEL, params(), atoms, devices=1000)
    with pytest.raises(CutoffError, match="half the smallest height"):
        divided_potential(MODEL, params(), box, species=species, images=False)
    with pytest.raises(UnknownSpeciesError):
        divided_potential(MODEL, params(), box, species=species + 1)
    neighbor_fn, predict = divided_potential(MODEL, params(), box, species=species)
    X = Coordinates(atoms).start.astype(np.float32)
    neighbors = neighbor_fn.allocate(X)
    with pytest.raises(ValueError, match="4 atoms"):
        predict(X[:2], neighbors)
    with pytest.raises(TypeError, match="colour"):
        predict(X, neighbors, colour=1)
