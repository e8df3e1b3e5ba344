import ase.build
import jax
import numpy as np
import pytest

from bpjax.analysis import speed
from bpjax.analysis.speed import Speed, largest_system, measure_sizes, repeated
from bpjax.errors import ConfigError, DivergedError, UnknownSpeciesError
from bpjax.potential.evaluator import Evaluator
from tests.dynamics.model import MODEL, crystal, params
from tests.small_model import molecule, slab


def measured(atoms, memory_gb, ms_per_step=2.0, timestep_fs=0.5):
    program_gb = None if memory_gb is None else memory_gb - 0.9
    return Speed(atoms, 12.0, -1.0, 1.0, 2.0, 1.5, ms_per_step, timestep_fs, 0.1, program_gb, memory_gb)


def test_rates():
    """1000 atoms and 2 ms per step: 500 steps and half a million atom steps a second; 43.2 million steps of 0.5 fs a day."""
    found = measured(1000, 1.0).line()
    assert found["atom_steps_per_s"] == pytest.approx(5e5)
    assert found["ns_per_day"] == pytest.approx(43.2e6 * 0.5e-6)
    assert found["us_per_atom_step"] == pytest.approx(2.0) and found["us_per_atom_evaluation"] == pytest.approx(1.5)


@pytest.mark.parametrize("wanted", [1, 8, 9, 60, 300])
def test_repeated_cells_are_compact(wanted):
    atoms = ase.build.bulk("Si", cubic=True) * (1, 2, 1)
    found = repeated(atoms, wanted)
    lengths = found.cell.lengths()
    assert len(found) >= wanted and lengths.max() <= 2 * lengths.min() + 1e-9
    assert found.get_volume() / len(found) == pytest.approx(atoms.get_volume() / len(atoms))


def test_only_periodic_directions_are_repeated():
    assert repeated(molecule(), 1000) == molecule()
    found = repeated(slab(), 200)
    assert len(found) >= 200 and found.cell.lengths()[2] == pytest.approx(slab().cell.lengths()[2])


def test_largest_system_lies_on_the_line():
    """1 GB and 20 kB per atom beyond the fixed part: 31 GB hold 1.5 million atoms."""
    found = [measured(n, 1.0 + 20e-6 * n) for n in (100, 20_000, 100_000)]
    estimate = largest_system(found, 31.0)
    assert estimate.atoms == pytest.approx(1_500_000, abs=1) and estimate.kb_per_atom == pytest.approx(20.0)
    assert estimate.limit_gb == 31.0


@pytest.mark.parametrize(
    ("memory", "limit"), [((1.0,), 8.0), ((1.0, 1.0), 8.0), ((1.0, 0.5), 8.0), ((1.0, 2.0), None), ((None, None), 8.0)]
)
def test_no_estimate_without_two_sizes_that_differ(memory, limit):
    assert largest_system([measured(100 * (n + 1), gb) for n, gb in enumerate(memory)], limit) is None


@pytest.fixture
def memory(monkeypatch):
    """Every size takes 1 MB per atom of the 2 GB that there are; nothing is really run."""
    tried = []

    def measure(model, values, atoms, **options):
        tried.append(len(atoms))
        return measured(len(atoms), 1e-3 * len(atoms))

    monkeypatch.setattr(speed, "measure", measure)
    monkeypatch.setattr(speed, "memory_limit_gb", lambda device: 2.0)
    return tried


def test_what_does_not_fit_is_not_tried(memory):
    found, why = measure_sizes(MODEL, params(), crystal(1), (5000, 500, 32, 1000))
    assert memory == [s.atoms for s in found] == [32, 500, 1008]
    assert why.startswith("5324 atoms would need about 5.32 GB") and "there are 2" in why


def test_sizes_that_are_the_same_are_measured_once(memory):
    found, why = measure_sizes(MODEL, params(), crystal(1), (1, 2, 4, 5))
    assert [s.atoms for s in found] == [4, 8] and why is None
    assert len(measure_sizes(MODEL, params(), molecule(), (1, 100, 10_000))[0]) == 1


def test_running_out_of_memory_keeps_the_smaller_sizes(memory, monkeypatch):
    fake = speed.measure

    def measure(model, values, atoms, **options):
        if len(atoms) > 100:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return fake(model, values, atoms)

    monkeypatch.setattr(speed, "measure", measure)
    found, why = measure_sizes(MODEL, params(), crystal(1), (4, 500))
    assert [s.atoms for s in found] == [4] and "500 atoms do not fit" in why
    with pytest.raises(jax.errors.JaxRuntimeError):
        measure_sizes(MODEL, params(), crystal(1), (500,))


@pytest.mark.parametrize("sizes", [(), (0,), (10, -1)])
def test_bad_sizes(sizes):
    with pytest.raises(ConfigError, match="sizes.*at least 1"):
        measure_sizes(MODEL, params(), crystal(1), sizes)


def test_evaluation_is_that_of_the_model():
    atoms = crystal(1, mixed=True)
    timing, energy, neighbors = speed.evaluation_timing(MODEL, params(), atoms, repeats=2, dtype="float64")
    assert energy == pytest.approx(Evaluator(MODEL, params(), "float64").evaluate(atoms).energy, rel=1e-12)
    distances = atoms.repeat(3).get_all_distances(mic=True)[:4]
    assert neighbors == np.sum((distances > 0) & (distances < MODEL.cutoff)) / 4
    assert len(timing.runs) == 2 and timing.compile_s > 0


def test_structures_that_cannot_be_run():
    atoms = crystal(1)
    atoms.symbols[0] = "Kr"
    with pytest.raises(UnknownSpeciesError):
        speed.measure(MODEL, params(), atoms)


def test_exploding_dynamics(monkeypatch):
    monkeypatch.setattr(speed.Simulation, "advance", lambda *a, **k: (None, 1, False))
    with pytest.raises(DivergedError, match="exploded"):
        speed.dynamics_timing(MODEL, params(), crystal(1))


def test_runs_in_which_a_list_grew_do_not_count(monkeypatch):
    """Each step takes 1 ms of the clock, and the list grows in the third run, which takes an hour."""

    class Clock(speed.Simulation):
        def __init__(self, *arguments):
            self._program = None
            self.run_s, self.compile_s, self.overflows, self.rebuilds, self.runs = 0.0, 7.0, 0, 0, 0

        def advance(self, blocks, steps, phase, dt=None):
            self.runs += 1
            grows = self.runs == 4
            self.overflows += grows
            self.run_s += 3600.0 if grows else 1e-3 * steps
            self.rebuilds += 2
            return None, 1, True

    monkeypatch.setattr(speed, "Simulation", Clock)
    timing, built, program_gb, _ = speed.dynamics_timing(MODEL, params(), crystal(1), steps=10, repeats=3)
    assert timing.runs == pytest.approx((1e-3,) * 3) and timing.compile_s == 7.0
    assert built == pytest.approx(0.2) and program_gb is None
