"""What tests cost: processor seconds of each, and where they go, by file; whether a tier stays within its budget.

`pytest --profile FILE` writes a table of the files, dearest first. `pytest --budget TIER` fails when the tests took half more
than the tier may take (see README.md in this folder). Both are off by default.

Processor seconds count threads and, once they have ended, programs that a test started. JAX reports how long it traces, lowers
and compiles by the clock; of that counts the share of the processor that the test had.
"""

import os
import statistics
import time
from collections import defaultdict
from pathlib import Path

import jax
import pytest

EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling",
}
CACHE_HIT = "/jax/compilation_cache/cache_hits"
PHASES = ("import", *EVENTS.values(), "running")
COUNTS = ("programs", "from cache")


def processor_seconds() -> float:
    """Of this process and of those it has started and seen the end of."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


class Meter:
    """Sums by owner (a test, or the import of a file) of what JAX reports and of processor seconds."""

    def __init__(self):
        self.costs: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.owner = ""
        self._spans: list[tuple[float, float]] = []
        jax.monitoring.register_event_duration_secs_listener(self._duration)
        jax.monitoring.register_event_listener(self._event)

    def _duration(self, event: str, seconds: float, **_) -> None:
        if event not in EVENTS:
            return
        # What is traced within a trace, or compiled while it goes on, reports first: each second is counted once.
        end = time.perf_counter()
        inner = [span for span in self._spans if span[0] >= end - seconds]
        self._spans = [span for span in self._spans[-100:] if span[0] < end - seconds] + [(end - seconds, end)]
        cost = self.costs[self.owner]
        cost[EVENTS[event]] += max(seconds - sum(stop - start for start, stop in inner), 0.0)
        if EVENTS[event] == "compiling":
            cost["programs"] += 1

    def _event(self, event: str, **_) -> None:
        if event == CACHE_HIT:
            self.costs[self.owner]["from cache"] += 1
            self.costs[self.owner]["programs"] -= 1

    def measure(self, owner: str, kind: str):
        """The body of a hook wrapper: what happens meanwhile costs `owner` this `kind` of seconds."""
        processor, clock, previous, self.owner = processor_seconds(), time.perf_counter(), self.owner, owner
        cost = self.costs[owner]
        before = {phase: cost[phase] for phase in EVENTS.values()}
        try:
            return (yield)
        finally:
            processor, clock = processor_seconds() - processor, time.perf_counter() - clock
            cost[kind] += processor
            # By the clock while the processor did other things too: the share of it that this process had.
            for phase, value in before.items():
                cost[phase] = value + (cost[phase] - value) * min(processor / clock, 1.0)
            self.owner = previous


def calibration() -> float:
    """Processor seconds of a fixed piece of work of the kind that tests are made of: a small model, traced, compiled and run.

    Machines differ by a factor of two, and by what else they do; budgets are multiples of this.
    """
    from bpjax.potential.evaluator import Evaluator
    from tests.small_model import MODEL, crystal, small_params

    params = small_params("float64")
    kept = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    jax.clear_caches()
    try:
        began = processor_seconds()
        Evaluator(MODEL, params).evaluate(crystal())
        return processor_seconds() - began
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)
        jax.clear_caches()


class Costs:
    """The plugin: meters in every process, results in the one that reports."""

    def __init__(self, profile: str | None, tier: str | None):
        self.profile, self.tier = profile, tier
        self.meter = Meter()
        self.costs: list[dict] = []
        self.units: list[float] = []
        self.lines: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector):
        if isinstance(collector, pytest.Module):
            return (yield from self.meter.measure(collector.nodeid, "import"))
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session):
        """In each process that runs tests, before and after them, when its neighbours are as busy as during them."""
        here = self.tier and not session.config.getoption("numprocesses", None)
        if here:
            calibration()  # imports, and everything that is done once
            self.units += [calibration() for _ in range(3)]
        try:
            return (yield)
        finally:
            if here:
                self.units += [calibration() for _ in range(3)]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        return (yield from self.meter.measure(item.nodeid, "processor"))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        found = getattr(node, "workeroutput", {})
        self.costs.append(found.get("costs", {}))
        self.units += found.get("units", [])

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        own = {owner: dict(cost) for owner, cost in self.meter.costs.items() if owner}
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput |= {"costs": own, "units": self.units}
            return
        self.costs.append(own)
        if self.profile:
            Path(self.profile).write_text(table(self.costs), encoding="utf-8")
        if self.tier:
            unit = statistics.median(self.units) if self.units else 0.0
            self.lines, fits = verdict(self.tier, self.costs, unit) if unit else (["no process has calibrated"], False)
            if not fits and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        if self.lines:
            terminalreporter.section(f"budget of the {self.tier} tests")
            for line in self.lines:
                terminalreporter.write_line(line)


BUDGETS = {"fast": 1400.0, "slow": 2100.0, "as-users": 2200.0}
"""What the tests of a tier may cost together, in units of `calibration`, without programs from earlier runs."""


def verdict(tier: str, costs: list[dict], unit: float) -> tuple[list[str], bool]:
    """What to say of a tier, and whether it is within half more than its budget."""
    tests = tests_of(costs)
    total, budget = sum(tests.values()), BUDGETS[tier]
    fits = total <= 1.5 * budget * unit
    dearest = sorted(tests.items(), key=lambda item: -item[1])[:10]
    return [
        f"{total:.0f} processor seconds, {total / unit:.0f} times the calibration of {unit:.2f} s; budget {budget:.0f} times",
        *([] if fits else ["More than half over it: make tests cheaper, or move them by the rule in tests/README.md."]),
        "The dearest:",
        *(f"{seconds:8.1f} s  {name}" for name, seconds in dearest),
    ], fits


def tests_of(costs: list[dict]) -> dict[str, float]:
    """Processor seconds of every test."""
    return {owner: cost["processor"] for worker in costs for owner, cost in worker.items() if "processor" in cost}


def table(costs: list[dict]) -> str:
    files: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for worker in costs:
        for owner, cost in worker.items():
            row = files[owner.split("::")[0]]
            for kind, value in cost.items():
                if "::" in owner or kind not in EVENTS.values():  # what an import compiles is part of the import
                    row[kind] += value
            row["tests"] += "processor" in cost
    for row in files.values():
        row["running"] = row["processor"] - sum(row[kind] for kind in EVENTS.values())
        row["processor"] += row["import"]
    rows = sorted(files.items(), key=lambda item: -item[1]["processor"])
    rows = [row for row in rows if row[1]["tests"]]
    total: dict[str, float] = defaultdict(float)
    for _, row in rows:
        for kind, value in row.items():
            total[kind] += value
    columns = ("processor", *PHASES, *COUNTS, "tests")
    lines = ["| file | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    for name, row in [("all", total), *rows]:
        values = [f"{row[c]:.0f}" if c in (*COUNTS, "tests") else f"{row[c]:.1f}" for c in columns]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    slowest = sorted(tests_of(costs).items(), key=lambda item: -item[1])
    return "\n".join([*lines, "", *(f"{seconds:8.2f} {name}" for name, seconds in slowest)]) + "\n"
