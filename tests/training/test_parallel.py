"""Several devices and several processes give the numbers of one, and stop together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from itertools import permutations
from pathlib import Path

import ase.io
import jax
import numpy as np
import pytest

from bpjax.cli.main import main
from bpjax.errors import ConfigError
from bpjax.potential.store import load
from bpjax.training import parallel
from bpjax.training.dataset import BatchPlan
from tests.quick_compiler import with_flags
from tests.tiers import exhaustive
from tests.training.labelled import structures, training_file

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0", "PYTHONPATH": str(ROOT)}


def of_devices(count: int) -> dict[str, str]:
    """Variables of a process that takes the CPU for so many devices."""
    return {**ENVIRONMENT, "XLA_FLAGS": with_flags(f"--xla_force_host_platform_device_count={count}")}


# Sums are taken in another order: a rounding error of 6e-8 in each gradient, carried on through 20 steps of Adam, which divide
# gradients by their size. Of a wrong share, such as a shard that is left out, parameters change by some percent.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("parallel")
    ase.io.write(found / "train.extxyz", structures(16))
    return found


def probe(folder, *kinds):
    command = [sys.executable, str(ROOT / "tests/training/parallel_probe.py"), str(folder), *kinds]
    found = subprocess.run(command, env=of_devices(4), capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    return {line["kind"]: line for line in map(json.loads, found.stdout.splitlines())}


USUAL = ("stored", "program", "uneven", "members")


@pytest.fixture(scope="module")
def probed(folder):
    """Results by kind; of those that are not exhaustive from one process: most of its time it starts."""
    usual = cache(lambda: probe(folder, *USUAL))
    return lambda kind: usual()[kind] if kind in USUAL else probe(folder, kind)[kind]


@pytest.mark.slow
def test_four_devices_give_the_numbers_of_one(probed):
    stored, program = probed("stored"), probed("program")
    assert 0 < stored["parameters"] < ROUNDING and stored["metrics"] < ROUNDING
    assert stored["said"] == ["4 devices share each batch: 1 structures each"]
    assert stored["programs"] == 1  # for all steps of all epochs
    # The number that is the loss, and all gradients at once; nothing of the data.
    assert program["all-reduce"] <= 2
    assert program["all-gather"] == program["all-to-all"] == program["collective-permute"] == 0
    assert program["batch"] == ["('shards',)"] and program["everywhere"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("uneven", "4 devices share each batch: 2"),
        ("members", "4 devices train 2 members each"),
        *exhaustive(
            ("disk", "share each batch: 1"),
            ("environments", "share each batch: 1"),
            ("features", "share each batch: 1"),
            ("few", "2 of 4 devices are used: a batch has no more structures"),
            ("some", "4 devices share each batch"),
            ("noise", "share each batch"),
            ("learned", "share each batch"),
            ("lbfgs", "share each batch"),
            ("kalman", "1 of 4 devices is used: the Kalman filter runs on one"),
        ),
    ],
)
def test_all_kinds_of_runs_agree(probed, kind, words):
    found = probed(kind)
    # A line search of L-BFGS may end a rounding error earlier or later.
    assert found["parameters"] < (10 * ROUNDING if kind == "lbfgs" else ROUNDING), found
    assert found["metrics"] < (10 * ROUNDING if kind == "lbfgs" else ROUNDING), found
    assert words in found["said"][0]
    assert found["programs"] <= 1


# ------------------------------------------------------------------------------------------------- shards


def of_sizes(seed=0, count=30, batch_size=6):
    sizes = np.random.default_rng(seed).integers(1, 60, count)
    return BatchPlan.of(sizes, batch_size, 3 * sizes + 1)


def test_every_structure_is_in_one_shard():
    plan = of_sizes()
    dealt = parallel.assign(plan.in_order(), plan.sizes, 4)
    assert dealt.shape == (5, 4, 2)
    for batch, shards in zip(plan.in_order(), dealt, strict=True):
        np.testing.assert_array_equal(np.sort(shards[shards >= 0]), np.sort(batch[batch >= 0]))


def test_shards_are_nearly_as_even_as_can_be():
    """Against the best of all ways to deal six structures to two."""
    worse = []
    for seed in range(20):
        sizes = np.random.default_rng(seed).integers(1, 60, (6, 1))
        dealt = parallel.assign(np.arange(6)[None], sizes, 2)[0]
        best = min(max(sizes[list(p[:3])].sum(), sizes[list(p[3:])].sum()) for p in permutations(range(6)))
        worse.append(sizes[dealt, 0].sum(axis=1).max() / best)
    assert min(worse) == 1 and max(worse) < 1.25 and np.mean(worse) < 1.05


class Four(parallel.Devices):
    """Stands for four devices, of which this process has two."""

    count, own = 4, [1, 2]  # pyright: ignore[reportAssignmentType]


def test_capacity_of_shards():
    plan, four = of_sizes(), Four(jax.sharding.Mesh(np.array(jax.devices()[:1]), (parallel.AXIS,)))
    looked = parallel.Shards.of(plan, four, seed=3, epochs=10)
    for epoch in range(10):
        for chosen in looked.epoch(3, epoch):
            shapes = looked.each(chosen, lambda own, part: (own.capacity, part))
            assert [shape for shape, _ in shapes] == [looked.capacity] * 2
            dealt = parallel.assign(chosen[None], plan.sizes, 4)[0]
            np.testing.assert_array_equal([part for _, part in shapes], dealt[1:3])
            assert (np.where(dealt[..., None] >= 0, plan.sizes[dealt], 0).sum(axis=1) <= looked.capacity).all()
    assert all(c <= w for c, w in zip(looked.capacity, plan.capacity, strict=True))
    # A batch that was not looked at: one shard gets all that is large.
    small = parallel.Shards(plan, four, (20, 61))
    chosen = np.argsort(-plan.sizes[:, 0])[:6]
    dealt = parallel.assign(chosen[None], plan.sizes, 4)[0]
    needed = np.where(dealt[..., None] >= 0, plan.sizes[dealt], 0).sum(axis=1).max(axis=0)
    factor = next(2**n for n in range(9) if (needed <= np.array(small.capacity) * 2**n).all())
    assert factor > 1
    shapes = small.each(chosen, lambda own, part: own.capacity)
    assert shapes == [(20 * factor, 61 * factor)] * 2


def test_hosts_hold_what_devices_held():
    tree = {"a": jax.numpy.arange(3.0), "b": np.ones(2), "c": 1.5}
    found = parallel.host(tree)
    assert all(isinstance(a, np.ndarray) for a in found.values())
    np.testing.assert_array_equal(found["a"], [0, 1, 2])


# ---------------------------------------------------------------------------------------------- processes


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def command(config, output, *more):
    return [sys.executable, "-m", "bpjax", "train", str(config), "-o", str(output), *more]


class Two:
    """`bpjax train` in two processes with so many devices each."""

    def __init__(self, config, output, *more, devices=1, slurm=False):
        address, self.logs = ["--distributed", f"localhost:{free_port()}"], []
        self.processes = []
        for n in range(2):
            own = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(n)}
            if slurm:
                own = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
                own |= {"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)}
            log = open(output.parent / f"{output.name}-{time.monotonic_ns()}-{n}.log", "w+")
            self.logs.append(log)
            self.processes.append(
                subprocess.Popen(
                    command(config, output, *address, *more),
                    env={**of_devices(devices), **own},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # A shell that runs the tests in the background makes its children deaf to ctrl-C.
                    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
                )
            )

    def wait(self, timeout=240) -> tuple[list[int], list[str]]:
        """Exit status and output of each process."""
        try:
            status = [process.wait(timeout) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        texts = []
        for log in self.logs:
            log.seek(0)
            texts.append(log.read())
            log.close()
        return status, texts

    def until(self, metrics: Path, lines: int) -> None:
        for _ in range(1200):
            if metrics.exists() and metrics.read_text().count("\n") >= lines:
                return
            assert all(process.poll() is None for process in self.processes), self.wait()
            time.sleep(0.1)
        raise AssertionError("no metrics after two minutes")


@pytest.fixture(scope="module")
def single(folder):
    """The run of one process with one device."""
    (folder / "config.toml").write_text(training_file(30, 10))
    found = subprocess.run(
        command(folder / "config.toml", folder / "single"), env=ENVIRONMENT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return folder / "single"


def assert_agree(one: Path, other: Path) -> None:
    (_, a), (_, b) = load(one / "model.bpjax"), load(other / "model.bpjax")
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=ROUNDING * np.abs(x).max())
    lines = [[json.loads(line) for line in open(run / "metrics.jsonl")] for run in (one, other)]
    for x, y in zip(*lines, strict=True):
        assert all(x[key] == pytest.approx(y[key], rel=ROUNDING) for key in x if key not in ("seconds", "members"))


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "slurm"), [*exhaustive((1, True)), (2, False)])
def test_two_processes_give_the_numbers_of_one(folder, single, devices, slurm):
    output = folder / f"two{devices}"
    status, texts = Two(folder / "config.toml", output, devices=devices, slurm=slurm).wait()
    assert status == [0, 0], texts
    assert_agree(single, output)
    assert f"{2 * devices} devices share each batch" in texts[0]
    # The second one says nothing but what the libraries say.
    assert "test" not in texts[1] and "validation" not in texts[1]
    assert json.loads((output / "report.json").read_text())["steps"] == 30


@pytest.mark.exhaustive
@pytest.mark.parametrize("section", ['inputs = "disk"\n', "[ensemble]\nmembers = 4\n"])
def test_two_processes_with_files_or_members(folder, section):
    name = "disk" if "disk" in section else "members"
    config = folder / f"{name}.toml"
    config.write_text(training_file(30, 10) + section)
    run = subprocess.run(command(config, folder / f"{name}1"), env=ENVIRONMENT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    status, texts = Two(config, folder / f"{name}2", devices=2).wait()
    assert status == [0, 0], texts
    assert_agree(folder / f"{name}1", folder / f"{name}2")


@pytest.mark.exhaustive
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_or_killed_and_resumed(folder, how):
    """One process gets a signal, both end; resumed, they end in the same file as without it, to the last bit."""
    config = folder / f"long{how}.toml"
    config.write_text(training_file(600, 100))
    whole, cut = folder / f"whole{how}", folder / f"cut{how}"
    assert Two(config, whole).wait()[0] == [0, 0]
    two = Two(config, cut)
    two.until(cut / "metrics.jsonl", 15)
    two.processes[1].send_signal(how)
    status, texts = two.wait(2 * parallel.ALIVE + 60)
    if how == signal.SIGINT:
        assert status == [130, 130], texts
        assert all("--resume" in text.splitlines()[-1] for text in texts)
    else:
        assert status[0] != 0 and status[1] == -signal.SIGKILL, texts
    assert not (cut / "model.bpjax").exists() or how == signal.SIGINT
    status, texts = Two(config, cut, "--resume").wait()
    assert status == [0, 0], texts
    assert (whole / "model.bpjax").read_bytes() == (cut / "model.bpjax").read_bytes()


@pytest.mark.slow
def test_what_stops_the_first_process_stops_all(folder, single):
    before = {path.name: path.read_bytes() for path in single.iterdir()}
    status, texts = Two(folder / "config.toml", single).wait()
    assert status == [2, 2]
    assert "already holds files" in texts[0] and "the first process has stopped" in texts[1]
    assert {path.name: path.read_bytes() for path in single.iterdir()} == before


@pytest.mark.parametrize(
    ("address", "environment", "words"),
    [
        ("localhost", {}, "'localhost'; must be HOST:PORT"),
        ("localhost:1", {}, "set JAX_NUM_PROCESSES and JAX_PROCESS_ID"),
        ("auto", {}, "set JAX_NUM_PROCESSES and JAX_PROCESS_ID"),
        ("localhost:1", {"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES=2 and JAX_PROCESS_ID=None"),
        ("localhost:1", {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "counted from 0"),
        ("localhost:1", {"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}, "'two'; must be a number"),
    ],
)
def test_addresses_and_variables_that_do_not_do(monkeypatch, capsys, tmp_path, address, environment, words):
    started = []

    def initialize(address, count, index, **_):
        # What JAX says without a launcher; it cannot be asked here, where its devices are in use.
        started.append((address, count, index))
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    for name in (parallel.COUNT, parallel.INDEX):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "no.toml", "-o", str(tmp_path / "run"), "--distributed", address]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1
    assert not environment or not started


def test_more_devices_than_structures_in_several_processes(monkeypatch):
    class Device:
        def __init__(self, n):
            self.process_index, self.id = divmod(n, 2)

    monkeypatch.setattr("jax.devices", lambda: [Device(n) for n in range(4)])
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"optimizer\.batch_size: 3, fewer structures than 4 devices"):
        parallel.choose(3, None, print)
    with pytest.raises(ConfigError, match=r"optimizer\.type: the Kalman filter runs on one device"):
        parallel.choose(8, None, print, one="the Kalman filter")
