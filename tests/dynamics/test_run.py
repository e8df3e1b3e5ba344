import json
from functools import partial

import ase
import ase.io
import jax
import numpy as np
import pytest
from ase.build import bulk

from bpjax import units
from bpjax.analysis.eos import birch_murnaghan, energy_volume
from bpjax.dynamics import MDDivergedError, PairCorrelation, run_md
from bpjax.dynamics.body import Coordinates, thermal_momenta
from bpjax.dynamics.settings import Settings
from bpjax.dynamics.simulation import Simulation
from bpjax.errors import ConfigError, CutoffError, OutputExistsError, StructureError, UnknownSpeciesError
from bpjax.neighbors import neighbor_list
from bpjax.potential import predict
from bpjax.potential.evaluator import Evaluator
from tests.compilations import compilations
from tests.dynamics.model import LATTICE, MODEL, cluster, crystal, params, slab, system_of

P = params(np.float64)
PREDICT = jax.jit(partial(predict, MODEL, P))
F64 = {"dtype": "float64", "chunk_steps": 100}


def verlet(atoms, momenta, steps, dt):
    """Velocity Verlet in its plainest form, with the host's neighbour search."""

    def evaluate(R):
        moved = atoms.copy()
        moved.positions = R
        cell = atoms.cell.array if atoms.pbc.any() else None
        found = PREDICT(system_of(moved), neighbor_list(R, cell, atoms.pbc, MODEL.cutoff, capacity=96))
        return float(found.energy), np.asarray(found.forces)

    R, p, m = atoms.positions.copy(), momenta.copy(), atoms.get_masses()[:, None]
    E, F = evaluate(R)
    for _ in range(steps):
        p = p + dt / 2 * F
        R = R + dt * p / m
        E, F = evaluate(R)
        p = p + dt / 2 * F
    return R, p, E


def left_handed():
    atoms = crystal(1, mixed=True) * (2, 1, 1)
    atoms.set_cell((atoms.cell.array + [[0, 0.4, 0], [0.7, 0, 0.2], [0.4, -0.3, 0]])[[1, 0, 2]], scale_atoms=True)
    atoms.positions[::3] += atoms.cell.array[1] - 2 * atoms.cell.array[0]
    assert np.linalg.det(atoms.cell.array) < 0
    return atoms


def test_the_log_goes_as_far_as_the_frames(tmp_path):
    """A frame that cannot be written, say on a full disk, ends the run; the log has the record of that step and all before."""
    seen, log = [], tmp_path / "log.jsonl"

    def full(frame, record):
        seen.append(record["step"])
        if len(seen) == 3:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        run_md(MODEL, params(), crystal(1), steps=25, log_interval=5, trajectory_interval=10, log=log, observers=[full])
    assert seen == [0, 10, 20]
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [0, 5, 10, 15, 20]


@pytest.mark.parametrize(
    "make",
    [pytest.param(left_handed, marks=pytest.mark.slow), pytest.param(slab, marks=pytest.mark.exhaustive), cluster],
)
@pytest.mark.as_users
def test_same_trajectory_as_plain_verlet(make):
    atoms = make()
    atoms.set_momenta(thermal_momenta(atoms.get_masses(), 100.0, np.random.default_rng(3), None))
    steps = 12
    result = run_md(MODEL, P, atoms, steps=steps, timestep_fs=2.0, use_momenta=True, log_interval=5, **F64)
    R, p, E = verlet(atoms, atoms.get_momenta(), steps, 2.0 * units.FS)
    # jax-md keeps the time step in float32: 6e-8 relative
    np.testing.assert_allclose(result.atoms.positions, R, atol=1e-6)
    np.testing.assert_allclose(result.atoms.get_momenta(), p, atol=1e-5)
    assert result.log["step"].tolist() == [0, 5, 10, 12]
    offset = MODEL.offset_energies(system_of(atoms).species).sum()
    np.testing.assert_allclose(result.log["potential_energy"][-1], E + offset, atol=1e-5)
    # The total momentum is conserved: its three components hold no heat.
    heat = 2 * result.atoms.get_kinetic_energy() / (3 * len(atoms) - 3)
    assert result.log["temperature"][-1] == pytest.approx(heat / units.BOLTZMANN, rel=1e-6)
    np.testing.assert_allclose(result.atoms.cell.array, atoms.cell.array)
    np.testing.assert_array_equal(result.atoms.numbers, atoms.numbers)


def test_standard_form_round_trip():
    atoms = left_handed()
    c = Coordinates(atoms)
    assert np.allclose(c.cell, np.tril(c.cell)) and (np.diag(c.cell) > 0).all()
    np.testing.assert_allclose(c.positions(c.start), atoms.positions, atol=1e-12)
    v = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(c.rotated_back(c.rotated(v)), v, atol=1e-12)
    np.testing.assert_allclose(c.rotated(atoms.cell.array), c.cell, atol=1e-12)


@pytest.mark.slow
def test_overflow_gives_the_same_trajectory_bit_by_bit():
    """The first chunk overflows; it is repeated with a list rebuilt at the same steps as a large one."""
    common = {"steps": 40, "temperature": 600.0, "seed": 5, "chunk_steps": 40, "skin": 0.3, "timestep_fs": 2.0}
    grown = run_md(MODEL, params(), crystal(2), capacity=5, **common)
    assert grown.overflows >= 1
    large = run_md(MODEL, params(), crystal(2), capacity=grown.slots, **common)
    assert large.overflows == 0
    np.testing.assert_array_equal(grown.atoms.positions, large.atoms.positions)
    for name in grown.log:
        np.testing.assert_array_equal(grown.log[name], large.log[name])


def test_nothing_is_compiled_while_atoms_move_and_lists_are_rebuilt():
    settings = Settings(temperature=600.0, timestep_fs=2.0, skin=0.3)
    before = compilations()
    simulation = Simulation(MODEL, params(), crystal(2), settings, 1, 2**30)
    simulation.advance(1, 1, 0, dt=0.0)
    first = compilations()
    assert first > before  # that compilations are heard of
    for blocks in (20, 7, 20, 20):  # chunks of any length
        simulation.advance(blocks, 1, 0)
    assert compilations() == first
    assert simulation.rebuilds >= 2 and simulation.overflows == 0


def test_the_program_writes_new_rows_of_the_list_over_the_old_ones():
    simulation = Simulation(MODEL, params(), crystal(2), Settings(), 1, 2**30)
    simulation.advance(1, 1, 0, dt=0.0)
    before, rows = simulation.neighbors.idx, simulation.neighbors.idx.nbytes
    assert simulation._program.memory_analysis().alias_size_in_bytes >= rows
    simulation.advance(1, 1, 0)
    assert before.is_deleted() and not simulation.neighbors.idx.is_deleted()


@pytest.mark.slow
def test_overflow_in_the_middle_gives_the_same_trajectory_to_rounding():
    """Up to the overflow the list is shorter, so sums are rounded differently: float64 bounds what grows from that."""
    atoms = crystal(2, rattle=0.0)
    common = {"steps": 60, "temperature": 900.0, "seed": 5, "skin": 0.3, "timestep_fs": 2.0, **F64, "chunk_steps": 20}
    need = int(neighbor_list(atoms.positions, atoms.cell.array, True, MODEL.cutoff + 0.3).mask.sum(1).max())
    grown = run_md(MODEL, P, atoms, capacity=need, **common)
    large = run_md(MODEL, P, atoms, capacity=need + 40, **common)
    assert grown.overflows >= 1 and large.overflows == 0
    np.testing.assert_allclose(grown.atoms.positions, large.atoms.positions, atol=1e-9)


@pytest.mark.slow
def test_files_records_and_observers(tmp_path):
    trajectory, log = tmp_path / "run.extxyz", tmp_path / "run.jsonl"
    g = PairCorrelation(6.0, 60)
    seen = []
    result = run_md(
        MODEL, params(), crystal(1), steps=25, log_interval=5, trajectory_interval=10, trajectory=trajectory, log=log,
        observers=[g, lambda atoms, record: seen.append(record["step"])], ensemble="nvt", temperature=50.0,
    )  # fmt: skip
    frames = ase.io.read(trajectory, ":")
    assert [f.info["step"] for f in frames] == seen == [0, 10, 20]
    assert g.frames == 3
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [r["step"] for r in records] == result.log["step"].tolist() == [0, 5, 10, 15, 20, 25]
    by_step = {r["step"]: r for r in records}
    for frame in frames:
        assert frame.get_potential_energy() == pytest.approx(by_step[frame.info["step"]]["potential_energy"], abs=1e-9)
        found = predict(
            MODEL, P, system_of(frame), neighbor_list(frame.positions, frame.cell.array, True, MODEL.cutoff)
        )
        total = float(found.energy) + MODEL.offset_energies(system_of(frame).species).sum()
        assert frame.get_potential_energy() == pytest.approx(total, abs=1e-5)
        assert frame.get_kinetic_energy() == pytest.approx(by_step[frame.info["step"]]["kinetic_energy"], rel=1e-5)
        V, K = frame.get_volume(), frame.get_kinetic_energy()
        pressure = (2 * K + np.trace(found.virial)) / (3 * V) / units.GPA
        assert by_step[frame.info["step"]]["pressure_gpa"] == pytest.approx(pressure, abs=1e-4)
    assert records[0]["temperature"] == pytest.approx(50.0, rel=1e-5)
    assert set(result.timings) >= {"compile_s", "run_s", "total_s", "us_per_atom_step"}


def test_existing_output_is_kept(tmp_path):
    old = tmp_path / "run.extxyz"
    old.write_text("precious")
    log = tmp_path / "run.jsonl"
    with pytest.raises(OutputExistsError, match="run.extxyz already exists"):
        run_md(MODEL, P, crystal(1), steps=1, trajectory=old, log=log)
    assert old.read_text() == "precious" and not log.exists()
    with pytest.raises(ConfigError, match="both"):
        run_md(MODEL, P, crystal(1), steps=1, trajectory=old, log=old, overwrite=True)


@pytest.mark.slow
def test_explosion_stops_with_the_last_good_frame(tmp_path):
    trajectory, log = tmp_path / "run.extxyz", tmp_path / "run.jsonl"
    with pytest.raises(MDDivergedError, match=r"step \d+: .*last good frame is of step") as caught:
        run_md(
            MODEL, params(), crystal(1), steps=400, temperature=100.0, max_temperature=150.0, timestep_fs=120.0,
            trajectory=trajectory, log=log, log_interval=2, trajectory_interval=100, chunk_steps=400,
        )  # fmt: skip
    frames = ase.io.read(trajectory, ":")
    last = caught.value.atoms
    np.testing.assert_allclose(frames[-1].positions, last.positions, atol=1e-9)
    assert np.isfinite(last.positions).all()
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert max(r["temperature"] for r in records) < 150.0
    assert records[-1]["step"] == frames[-1].info["step"] == last.info["step"]


@pytest.mark.slow
def test_nan_stops_too():
    broken = params()
    broken["energy_scale"] = np.float32(np.nan)
    with pytest.raises(MDDivergedError, match="step 0: no finite energy"):
        run_md(MODEL, broken, crystal(1), steps=5)


@pytest.mark.exhaustive
def test_barostat_that_shrinks_the_cell_too_far():
    with pytest.raises(CutoffError, match="barostat"):
        run_md(MODEL, params(), crystal(3), ensemble="npt", pressure=200.0, barostat_time_fs=50.0, steps=300, skin=2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature: -1.0 must be"),
        ({"temperature": float("nan")}, "temperature: nan must be"),
        ({"temperature": 0.0, "ensemble": "nvt"}, "must be positive for nvt"),
        ({"timestep_fs": 0.0}, "timestep_fs: 0.0 must be"),
        ({"steps": 0}, "steps: 0 must be"),
        ({"log_interval": 0}, "log_interval: 0 must be"),
        ({"pressure": float("inf")}, "pressure: inf must be"),
        ({"ensemble": "nvp"}, "ensemble: 'nvp' must be one of nve, nvt, nvt_langevin, npt"),
        ({"skin": -0.5}, "skin: -0.5 must be"),
        ({"max_temperature": 100.0}, "max_temperature: 100.0 must be"),
        ({"max_extrapolations": -1}, "max_extrapolations: -1 must be an integer"),
        ({"max_extrapolations": True}, "max_extrapolations: True must be an integer"),
        ({"dtype": "float16"}, "dtype: 'float16' is not one of float32, float64"),
        ({"temprature": 300.0}, "temprature: unknown option"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError) as caught:
        run_md(MODEL, P, crystal(1), **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_bad_structures():
    with pytest.raises(StructureError, match="zero atoms"):
        run_md(MODEL, P, ase.Atoms())
    with pytest.raises(UnknownSpeciesError, match="atom 0 is Si"):
        run_md(MODEL, P, bulk("Si"))
    with pytest.raises(ConfigError, match="periodic in all three"):
        run_md(MODEL, P, slab(), ensemble="npt")
    with pytest.raises(StructureError, match="momenta: missing"):
        run_md(MODEL, P, crystal(1), use_momenta=True)
    together = crystal(1)
    together.positions[1] = together.positions[0]
    with pytest.raises(StructureError, match="at one place"):
        run_md(MODEL, P, together)
    fixed = crystal(1)
    fixed.set_constraint(ase.constraints.FixAtoms([0]))
    with pytest.raises(StructureError, match="constraints"):
        run_md(MODEL, P, fixed)


def test_momenta():
    m = np.array([1.0, 16.0, 40.0, 40.0])
    p = thermal_momenta(m, 300.0, np.random.default_rng(0), 9)
    np.testing.assert_allclose(p.sum(axis=0), 0, atol=1e-12)
    assert np.sum(p**2 / m[:, None]) == pytest.approx(9 * units.BOLTZMANN * 300.0)
    many = thermal_momenta(np.full(20000, 4.0), 300.0, np.random.default_rng(0), None)
    assert many.var() == pytest.approx(4.0 * units.BOLTZMANN * 300.0, rel=0.02)


def test_guard():
    assert Settings(temperature=300.0).guard == 5000.0
    assert Settings(temperature=3000.0).guard == 30000.0


@pytest.mark.parametrize("ensemble", ["nvt", "npt"])
@pytest.mark.slow
def test_conserved_quantity(ensemble):
    result = run_md(
        MODEL, params(), crystal(2), ensemble=ensemble, temperature=300.0, steps=300, timestep_fs=1.0, seed=2,
        barostat_time_fs=200.0,
    )  # fmt: skip
    assert np.ptp(result.log["conserved"]) < 1e-4 * 32
    assert np.ptp(result.log["potential_energy"]) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", ["nve", pytest.param("nvt", marks=pytest.mark.exhaustive), "npt"])
@pytest.mark.as_users
def test_drift_of_ten_picoseconds(ensemble):
    """256 atoms, 1 fs, float32; the slope of the conserved energy."""
    result = run_md(
        MODEL, params(), crystal(4), ensemble=ensemble, temperature=300.0, steps=10_000, timestep_fs=1.0, seed=2
    )
    assert abs(result.drift) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", ["nvt", pytest.param("nvt_langevin", marks=pytest.mark.exhaustive)])
@pytest.mark.as_users
def test_temperature_distribution(ensemble):
    """Mean T and variance 2 T^2 / N_f, for so few atoms that 3N instead of 3N - 3 would show."""
    result = run_md(
        MODEL, params(), crystal(1, rattle=0.3) * (2, 1, 1), ensemble=ensemble, temperature=300.0, steps=200_000,
        timestep_fs=2.0, log_interval=20, thermostat_time_fs=80.0, seed=4,
    )  # fmt: skip
    T = result.log["temperature"][500:]
    dof = 24 if ensemble == "nvt_langevin" else 21
    blocks = T[: len(T) // 20 * 20].reshape(20, -1).mean(axis=1)
    assert abs(T.mean() - 300.0) < 4 * blocks.std() / np.sqrt(19) + 0.5
    assert T.var() == pytest.approx(2 * 300.0**2 / dof, rel=0.1)


@pytest.mark.slow
@pytest.mark.as_users
def test_pressure_of_the_barostat():
    """The mean pressure is the one asked for, and NVT at the mean volume has it too."""
    common = {"temperature": 300.0, "steps": 20_000, "timestep_fs": 2.0, "seed": 1}
    npt = run_md(MODEL, params(), crystal(3), ensemble="npt", pressure=0.5, barostat_time_fs=500.0, **common)
    tail = slice(len(npt.log["step"]) // 4, None)
    assert npt.log["pressure_gpa"][tail].mean() == pytest.approx(0.5, abs=0.05)
    atoms = crystal(3)
    scale = (npt.log["volume"][tail].mean() / atoms.get_volume()) ** (1 / 3)
    atoms.set_cell(atoms.cell.array * scale, scale_atoms=True)
    nvt = run_md(MODEL, params(), atoms, ensemble="nvt", **common)
    assert nvt.log["pressure_gpa"][tail].mean() == pytest.approx(0.5, abs=0.05)
    assert abs(scale * LATTICE - LATTICE) < 0.3


@pytest.mark.slow
@pytest.mark.as_users
def test_cold_barostat_finds_the_minimum_of_the_energy_volume_curve():
    """At 5 K thermal expansion is far below the 0.2 % allowed; the curve is evaluated in float64."""
    cold = run_md(
        MODEL, params(), crystal(3, rattle=0.0), ensemble="npt", temperature=5.0, pressure=0.0, steps=10_000,
        timestep_fs=2.0, barostat_time_fs=500.0, seed=3,
    )  # fmt: skip
    volumes = (np.linspace(0.96, 1.04, 9) * LATTICE) ** 3 / 4
    evaluator = Evaluator(MODEL, params(np.float64), "float64")
    curve = energy_volume(evaluator, {"fcc": crystal(1, rattle=0.0)}, {"fcc": volumes})
    found = birch_murnaghan(volumes, curve["fcc"])
    volume = cold.log["volume"][len(cold.log["volume"]) // 3 :].mean() / len(crystal(3))
    assert volume == pytest.approx(found.volume, rel=2e-3)


def test_what_single_precision_or_the_list_cannot_hold():
    far = cluster()
    far.positions[-1] += [3000.0, 0, 0]
    with pytest.raises(
        StructureError, match="are .* A apart where nothing repeats; single precision is for 600 A, take float64"
    ):
        run_md(MODEL, P, far, steps=1)
    skewed = crystal(1)
    skewed.set_cell(skewed.cell.array + [[0, 0, 0], 90 * skewed.cell.array[0], -300 * skewed.cell.array[0]])
    with pytest.raises(StructureError, match="cell: is very skewed; take a reduced one"):
        run_md(MODEL, P, skewed, steps=1)
