"""Set-up of all tests: double precision, one thread per worker, data kept beside the checkout."""

import os
from pathlib import Path

# Before jax is imported. Each xdist worker gets one thread: more of them would only fight for the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    for _variable in ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import hypothesis
import jax
import pytest

jax.config.update("jax_enable_x64", True)

ROOT = Path(__file__).resolve().parent.parent

# Compilation makes the first example slow, and CI machines are slow at times: time limits would only be noise.
hypothesis.settings.register_profile("bpjax", deadline=None, max_examples=50, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("bpjax")


def pytest_collection_modifyitems(config, items):
    """Exhaustive tests are slow. Without an accelerator, skips what needs one, and compiles fast tests without optimisations.

    Compiling takes most of the time of fast tests. Slow tests and the programs that tests start run what users run.
    """
    for item in items:
        if item.get_closest_marker("exhaustive"):
            item.add_marker(pytest.mark.slow)
    if jax.default_backend() != "cpu":
        return
    if config.option.markexpr == "not slow":
        jax.config.update("jax_disable_most_optimizations", True)
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no accelerator"))


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
