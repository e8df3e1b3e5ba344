"""What is said of costs is what they were, and a tier that outgrows its budget fails."""

import os
import time
from types import SimpleNamespace

import pytest

from tests import costs, program_cache

EVENT = "/jax/core/compile/{}_duration"


@pytest.fixture
def meter(monkeypatch):
    """One that JAX does not report to."""
    monkeypatch.setattr(costs.jax.monitoring, "register_event_duration_secs_listener", lambda listener: None)
    monkeypatch.setattr(costs.jax.monitoring, "register_event_listener", lambda listener: None)
    return costs.Meter()


def test_seconds_within_seconds_count_once(meter, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    # Two traces within a trace, and after it a compilation: as JAX reports them, each when it ends.
    for end, name, seconds in (
        (101.0, "jaxpr_trace", 0.5),
        (102.0, "jaxpr_trace", 0.25),
        (103.0, "jaxpr_trace", 3.0),
        (105.0, "backend_compile", 1.5),
    ):
        now = end
        meter._duration(EVENT.format(name), seconds)
    meter._duration("/jax/something/else", 50.0)
    meter._event(costs.CACHE_HIT)
    found = meter.costs[""]
    assert found["tracing"] == pytest.approx(3.0) and found["compiling"] == 1.5
    assert found["programs"] == 0 and found["from cache"] == 1


def test_processor_seconds_are_those_of_the_owner(meter):
    def busy(seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    hook = meter.measure("a.py::test", "processor")
    next(hook)
    assert meter.owner == "a.py::test"
    busy(0.2)
    hook.close()
    # os.times() counts in hundredths.
    assert meter.owner == "" and 0.15 < meter.costs["a.py::test"]["processor"] < 0.4
    assert costs.tests_of([meter.costs]) == {"a.py::test": meter.costs["a.py::test"]["processor"]}


def test_a_tier_fails_at_half_more_than_its_budget():
    unit = 0.5
    allowed = 1.5 * costs.BUDGETS["fast"] * unit
    tests = {f"tests/a.py::test_{n}": {"processor": allowed / 20} for n in range(20)}
    workers = [dict(list(tests.items())[:8]), dict(list(tests.items())[8:])]
    lines, fits = costs.verdict("fast", workers, unit)
    assert fits and sum("::" in line for line in lines) == 10
    workers[0]["tests/a.py::test_more"] = {"processor": 1.0}
    lines, fits = costs.verdict("fast", workers, unit)
    assert not fits and any("More than half over it" in line for line in lines)


@pytest.mark.parametrize(
    ("seconds", "units", "status"), [(100.0, [0.5], 0), (1e4, [0.5], 1), (1e4, [9.0], 0), (1.0, [], 1)]
)
def test_budget_decides_how_a_run_ends(monkeypatch, tmp_path, seconds, units, status):
    monkeypatch.setattr(costs, "Meter", lambda: SimpleNamespace(costs={"a.py::one": {"processor": seconds}}))
    plugin = costs.Costs(str(tmp_path / "profile.md"), "fast")
    plugin.units = units
    session = SimpleNamespace(config=SimpleNamespace(), exitstatus=pytest.ExitCode.OK)
    plugin.pytest_sessionfinish(session)
    assert session.exitstatus == status and plugin.lines
    assert f"{seconds:.2f} a.py::one" in (tmp_path / "profile.md").read_text()
    # A run that has failed already has failed for that.
    session.exitstatus = pytest.ExitCode.INTERRUPTED
    plugin.pytest_sessionfinish(session)
    assert session.exitstatus == pytest.ExitCode.INTERRUPTED


def test_table_adds_up():
    workers = [
        {
            "tests/a.py": {"import": 1.0, "compiling": 0.5},
            "tests/a.py::one": {"processor": 4.0, "compiling": 3.0, "programs": 2},
        },
        {"tests/a.py": {"import": 2.0}, "tests/b.py::two": {"processor": 1.0, "from cache": 1}},
    ]
    rows = [line.split("|")[1:-1] for line in costs.table(workers).splitlines() if line.startswith("| ")]
    header, everything, first, second = ([cell.strip() for cell in row] for row in rows)
    assert everything[0] == "all" and first[0] == "tests/a.py" and second[0] == "tests/b.py"
    values = dict(zip(header[1:], map(float, first[1:]), strict=True))
    assert values["processor"] == 7.0 and values["import"] == 3.0 and values["compiling"] == 3.0
    assert values["running"] == 1.0 and values["programs"] == 2 and values["tests"] == 1
    assert float(everything[1]) == 8.0 and float(everything[-1]) == 2


def test_programs_are_kept_where_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("BPJAX_TEST_CACHE", "0")
    assert program_cache.folder() is None
    monkeypatch.setenv("BPJAX_TEST_CACHE", str(tmp_path))
    assert program_cache.folder().parent == tmp_path
    monkeypatch.delenv("BPJAX_TEST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert program_cache.folder().parent == tmp_path / "bpjax-tests"


def test_the_oldest_programs_go_when_there_are_too_many(monkeypatch, tmp_path):
    monkeypatch.setenv("BPJAX_TEST_CACHE", str(tmp_path))
    kept = program_cache.folder()
    kept.mkdir()
    for n in range(8):
        (kept / f"{n}").write_bytes(bytes(100))
        os.utime(kept / f"{n}", (n, n))
    program_cache.prune(800)
    assert len(list(kept.iterdir())) == 8
    program_cache.prune(799)
    assert sorted(f.name for f in kept.iterdir()) == ["5", "6", "7"]
