"""Extrapolation warnings of a run against those of its frames, one by one."""

import json
from dataclasses import asdict

import ase.io
import jax
import numpy as np
import pytest

from bpjax.dynamics import run_md
from bpjax.dynamics.settings import Settings
from bpjax.dynamics.simulation import Simulation
from bpjax.errors import ConfigError, ExtrapolationError, OutputExistsError
from bpjax.neighbors import neighbor_list
from bpjax.potential.evaluator import Evaluator
from bpjax.potential.extrapolation import features
from tests.dynamics.model import MODEL, crystal, params, system_of

NEVER = 10**12
COMMON = {"temperature": 200.0, "timestep_fs": 5.0, "steps": 43, "seed": 3, "dtype": "float64", "chunk_steps": 20}
KNOWN = 12
"""Steps of the run that count as training data."""


def frames_of_run(ensemble):
    """Every frame of a run that nobody watches."""
    frames = []
    run_md(
        MODEL, params(np.float64), crystal(1, mixed=True), ensemble=ensemble, log_interval=1, trajectory_interval=1,
        observers=[lambda atoms, record: frames.append(atoms)], **COMMON,
    )  # fmt: skip
    return frames


def trained_on(frames):
    """Parameters whose ranges are those of the features in some frames, and a little more."""
    values, G, symbols = params(np.float64), [], frames[0].get_chemical_symbols()
    for atoms in frames:
        cell = atoms.cell.array
        neighbors = neighbor_list(atoms.positions, cell, True, MODEL.cutoff, capacity=64)
        G.append(np.asarray(features(MODEL, values, system_of(atoms), neighbors).values))
    for element in set(symbols):
        chosen = np.concatenate([g[[s == element for s in symbols]] for g in G])
        values["scaling"][element].update(min=chosen.min(axis=0) - 1e-9, max=chosen.max(axis=0) + 1e-9)
    return values


class Case:
    """A run, what it must count in each step (step 0 too), and its evaluator."""

    def __init__(self, ensemble):
        self.ensemble, self.atoms = ensemble, crystal(1, mixed=True)
        self.frames = frames_of_run(ensemble)
        self.params = trained_on(self.frames[:KNOWN])
        self.evaluator = Evaluator(MODEL, self.params, "float64", watch=True)
        self.outside = np.array([e.outside for e in self.evaluator.evaluate_many(self.frames)])
        self.counts = self.outside.sum(axis=1)

    def run(self, **options):
        return run_md(MODEL, self.params, self.atoms, ensemble=self.ensemble, **{**COMMON, **options})


def checked_case(ensemble):
    found = Case(ensemble)
    assert len(found.frames) == COMMON["steps"] + 1 and not found.counts[:KNOWN].any()
    assert np.count_nonzero(found.counts) > 10 and found.counts.max() > 2
    return found


@pytest.fixture(scope="module")
def case():
    return checked_case("nve")


def check_files(case, path, steps):
    """Frames and lines of the files are those of these steps of the run."""
    frames = ase.io.read(path, ":")
    assert [f.info["step"] for f in frames] == steps
    lines = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
    for number, (step, frame) in enumerate(zip(steps, frames, strict=True)):
        true = case.frames[step]
        np.testing.assert_allclose(frame.positions, true.positions, atol=1e-9)
        np.testing.assert_allclose(frame.cell.array, true.cell.array, atol=1e-9)
        np.testing.assert_array_equal(frame.numbers, true.numbers)
        np.testing.assert_array_equal(frame.arrays["outside"], case.outside[step])
        assert frame.info["extrapolations"] == case.counts[step] and frame.calc is None
        assert frame.info["time_fs"] == step * COMMON["timestep_fs"]
        warnings = [asdict(w) for w in case.evaluator.extrapolations(true, number)]
        written = [line for line in lines if line["structure"] == number]
        assert len(written) == len(warnings) == case.counts[step]
        for line, warning in zip(written, warnings, strict=True):
            assert line.pop("step") == step
            assert line.pop("value") == pytest.approx(warning.pop("value"), rel=1e-9)
            assert line == warning
    assert {line["structure"] for line in lines} == set(range(len(frames)))


def first_of_each(counts, interval):
    """The first step with warnings of each log interval; step 0 is one of its own."""
    steps = np.flatnonzero(counts)
    return [int(steps[-(-steps // interval) == n][0]) for n in np.unique(-(-steps // interval))]


def check_counts(case, tmp_path, trajectory_interval, limit):
    path, log = tmp_path / "out.extxyz", tmp_path / "run.jsonl"
    result = case.run(
        max_extrapolations=limit, extrapolation_file=path, log=log, log_interval=10, observers=[lambda *_: None],
        trajectory_interval=trajectory_interval,
    )  # fmt: skip
    assert result.extrapolations == case.counts.sum()
    assert result.log["step"].tolist() == [0, 10, 20, 30, 40, 43]
    expected = [case.counts[0], *(case.counts[a + 1 : a + 11].sum() for a in range(0, 43, 10))]
    assert result.log["extrapolations"].tolist() == expected
    assert [json.loads(line)["extrapolations"] for line in log.read_text().splitlines()] == expected
    np.testing.assert_allclose(result.atoms.positions, case.frames[-1].positions, atol=1e-12)
    check_files(case, path, first_of_each(case.counts, 10))


def test_counts_are_those_of_the_frames(case, tmp_path):
    """Also with an incomplete block at the end."""
    check_counts(case, tmp_path, 20, NEVER)


@pytest.mark.slow
def test_blocks_that_are_shorter_than_the_interval_of_the_log(case, tmp_path):
    """And a limit that is just kept."""
    check_counts(case, tmp_path, 4, int(case.counts.sum()))


@pytest.mark.exhaustive
def test_under_a_barostat(tmp_path):
    case = checked_case("npt")
    assert len({f.cell.volume for f in case.frames}) > 40
    check_counts(case, tmp_path, 20, NEVER)


@pytest.mark.parametrize("where", ["first", "end of a block"])
def test_stops_with_the_step_that_exceeds_the_limit(case, tmp_path, where):
    total = np.cumsum(case.counts)
    steps = np.flatnonzero(case.counts)
    stop = {"first": steps[0], "end of a block": steps[steps % 5 == 0][-1]}[where]
    limit = int(total[stop] - 1)
    path, trajectory, log = tmp_path / "out.extxyz", tmp_path / "run.extxyz", tmp_path / "run.jsonl"
    with pytest.raises(ExtrapolationError) as caught:
        case.run(
            max_extrapolations=limit, extrapolation_file=path, trajectory=trajectory, log=log, log_interval=5,
            trajectory_interval=20,
        )  # fmt: skip
    text = str(caught.value)
    plural = "s" if total[stop] != 1 else ""
    assert text.startswith(
        f"step {stop}: {total[stop]} extrapolation warning{plural}, more than the limit of {limit}; "
    )
    assert f"; offending frames are in {path}; " in text and "\n" not in text
    step = steps[steps > (stop - 1) // 5 * 5][0]
    found = case.evaluator.extrapolations(case.frames[step])
    most = max(w.excess for w in found)
    # Atoms that symmetry makes equal differ by rounding, and that by the order in which a list has their neighbours.
    assert any(
        f"; worst in step {step}: function {w.function} ({w.label}) of atom {w.atom} ({w.element}) is {w.value:.6g}, in training "
        f"{w.minimum:.6g} to {w.maximum:.6g};" in text
        for w in found
        if w.excess > (1 - 1e-6) * most
    )
    check_files(case, path, first_of_each(case.counts[: stop + 1], 5))
    last = (stop - 1) // 5 * 5
    np.testing.assert_allclose(caught.value.atoms.positions, case.frames[last].positions, atol=1e-9)
    assert caught.value.atoms.info["step"] == last == ase.io.read(trajectory).info["step"]
    assert f"the last good frame is of step {last}, at the end of {trajectory}" in text
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [r["step"] for r in records] == list(range(0, last + 1, 5))
    assert sum(r["extrapolations"] for r in records) == total[last]


def test_warnings_before_the_first_step(tmp_path):
    values, path = params(np.float64), tmp_path / "out.extxyz"
    values["scaling"]["Ar"]["max"] = np.full(MODEL.descriptor.size, -1.0)
    options = {**COMMON, "steps": 3, "extrapolation_file": path}
    with pytest.raises(
        ExtrapolationError, match="^step 0: 28 extrapolation warnings, more than the limit of 27; worst"
    ) as e:
        run_md(MODEL, values, crystal(1), max_extrapolations=27, **options)
    assert e.value.atoms is None
    assert ase.io.read(path).info["step"] == 0


@pytest.mark.slow
def test_a_chunk_that_is_repeated_counts_once():
    """The first chunk overflows and is repeated with a longer list; what the list with gaps gives does not end the run."""
    frames = []
    common = {**COMMON, "steps": 40, "temperature": 600.0, "chunk_steps": 40, "skin": 0.3, "timestep_fs": 2.0}
    run_md(MODEL, params(), crystal(2), **common, trajectory_interval=1, observers=[lambda a, r: frames.append(a)])
    values = params(np.float64)
    values["scaling"]["Ar"] = trained_on(frames[:10])["scaling"]["Ar"]
    evaluator = Evaluator(MODEL, values, "float64", watch=True)
    limit = sum(int(e.outside.sum()) for e in evaluator.evaluate_many(frames))
    grown = run_md(MODEL, values, crystal(2), capacity=5, max_extrapolations=limit, **common)
    assert grown.overflows >= 1
    assert grown.extrapolations == limit > 100


def test_a_run_that_never_leaves_its_data(tmp_path):
    path = tmp_path / "out.extxyz"
    result = run_md(MODEL, params(), crystal(1), steps=20, max_extrapolations=0, extrapolation_file=path)
    assert result.extrapolations == 0 and not result.log["extrapolations"].any()
    assert path.read_bytes() == path.with_suffix(".jsonl").read_bytes() == b""


def test_nobody_watches():
    result = run_md(MODEL, params(), crystal(1), steps=5)
    assert result.extrapolations is None and "extrapolations" not in result.log
    for most, counted in ((None, False), (NEVER, True)):
        simulation = Simulation(MODEL, params(), crystal(1), Settings(max_extrapolations=most), 10, 10)
        prediction = jax.eval_shape(simulation._predict, simulation.state.position, simulation.neighbors)
        assert (prediction.outside is not None) == counted and len(simulation.seen) == 2 + counted


def test_files_that_are_there_and_options_that_are_missing(tmp_path):
    old = tmp_path / "out.jsonl"
    old.write_text("precious")
    with pytest.raises(OutputExistsError, match=r"out\.jsonl already exists"):
        run_md(MODEL, params(), crystal(1), extrapolation_file=tmp_path / "out.extxyz", max_extrapolations=1)
    assert old.read_text() == "precious" and not (tmp_path / "out.extxyz").exists()
    with pytest.raises(ConfigError, match="extrapolation_file: needs max_extrapolations"):
        run_md(MODEL, params(), crystal(1), extrapolation_file=tmp_path / "new.extxyz")
    with pytest.raises(ConfigError, match="cannot be both log and its details"):
        run_md(MODEL, params(), crystal(1), extrapolation_file=tmp_path / "new.extxyz", log=tmp_path / "new.jsonl")
