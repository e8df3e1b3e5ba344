"""Set-up of all tests: double precision, one thread per worker, how programs are compiled and kept, data beside the checkout."""

import gc
import os
from pathlib import Path

# Before JAX looks for devices. Each xdist worker gets one thread: more of them would only fight for the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    for _variable in ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import hypothesis
import jax
import pytest

from tests import program_cache, quick_compiler
from tests.costs import BUDGETS, Costs

jax.config.update("jax_enable_x64", True)
program_cache.choose()

ROOT = Path(__file__).resolve().parent.parent

# Compilation makes the first example slow, and CI machines are slow at times: time limits would only be noise. Examples are the
# same in every run, so that a run says what a change did; `--hypothesis-profile random` is to look for others.
hypothesis.settings.register_profile("bpjax", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.register_profile("random", deadline=None, max_examples=200)
hypothesis.settings.load_profile("bpjax")


def pytest_addoption(parser):
    group = parser.getgroup("bpjax")
    group.addoption("--as-users", action="store_true", help="compile with all optimisations")
    group.addoption("--profile", metavar="FILE", help="write what each file of tests costs, and in what, to FILE")
    group.addoption(
        "--budget",
        choices=tuple(BUDGETS),
        help="fail when the tests cost half more than this tier may (tests/README.md)",
    )


def pytest_configure(config):
    if not config.getoption("--as-users"):
        quick_compiler.choose()
    if config.getoption("--profile") or config.getoption("--budget"):
        config.pluginmanager.register(Costs(config.getoption("--profile"), config.getoption("--budget")), "costs")


def pytest_sessionstart(session):
    if not hasattr(session.config, "workerinput"):  # one process does it
        program_cache.prune()


def pytest_collection_modifyitems(config, items):
    """Exhaustive tests are slow, references are compared as users run things. Without an accelerator, skips what needs one."""
    for item in items:
        if item.get_closest_marker("exhaustive"):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("reference"):
            item.add_marker(pytest.mark.as_users)
        if item.get_closest_marker("gpu") and jax.default_backend() == "cpu":
            item.add_marker(pytest.mark.skip(reason="no accelerator"))


def pytest_collection_finish(session):
    """What exists now lives until the end: the collector of garbage, which tracing wakes up often, need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


MAPPED = 30000
"""Mapped regions of memory beyond which compiled programs are dropped. Linux allows 65530 in a process (vm.max_map_count); each
program takes a few, and the compiler crashes when there are no more."""


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Drops compiled programs at the end of a module, when there are many."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPPED:
        jax.clear_caches()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder ``shared`` beside the checkout, with public data sets that may not be copied into it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the data sets kept beside the checkout, in ../shared")
    return folder


@pytest.fixture
def strict_promotion():
    """No implicit broadcasting of ranks and no implicit mixing of dtypes.

    For kernels: ``pytestmark = pytest.mark.usefixtures("strict_promotion")``. Not for everything, because jax-md
    promotes both.
    """
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
