"""Tests are compiled as they say, and programs are kept where they say."""

import os

import jax
import jax.numpy as jnp
import pytest

from tests import program_cache, quick_compiler


@pytest.mark.as_users
def test_this_run_is_compiled_as_it_says(request):
    as_users = request.config.getoption("--as-users")
    flags = [
        name
        for name in quick_compiler.OPTIONS
        if name.startswith("xla_cpu") and name in os.environ.get("XLA_FLAGS", "")
    ]
    if as_users or jax.default_backend() != "cpu":
        assert not jax.config.values["jax_disable_most_optimizations"]
    else:
        assert jax.config.values["jax_disable_most_optimizations"] and flags
    assert not (as_users and flags)


def test_programs_of_this_run_are_kept_where_it_says():
    kept = program_cache.folder()
    assert jax.config.jax_enable_compilation_cache == (kept is not None)
    assert jax.config.jax_compilation_cache_dir == str(kept or "")
    assert os.environ["JAX_ENABLE_COMPILATION_CACHE"] == str(kept is not None).lower()


def test_flags_are_joined_to_those_that_are_there(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_one=1")
    assert quick_compiler.with_flags("--xla_two=2", "--xla_three=3") == "--xla_one=1 --xla_two=2 --xla_three=3"
    monkeypatch.delenv("XLA_FLAGS")
    assert quick_compiler.with_flags("--xla_two=2") == "--xla_two=2"


def test_a_context_is_used_for_many_programs_and_changes_none(monkeypatch):
    mlir = pytest.importorskip("jax._src.interpreters.mlir")
    made = []
    own = mlir.make_ir_context
    make = own.make if isinstance(own, quick_compiler.Contexts) else own

    def text():
        jax.clear_caches()
        return jax.jit(lambda x: jnp.sin(x) @ x.T).lower(jnp.ones((2, 3))).as_text()

    monkeypatch.setattr(mlir, "make_ir_context", make)
    expected = text()
    contexts = quick_compiler.Contexts(lambda: made.append(make()) or made[-1])
    monkeypatch.setattr(mlir, "make_ir_context", contexts)
    assert text() == text() == expected
    assert len(made) == 1
    for _ in range(2 * contexts.PROGRAMS):
        contexts()
    assert len(made) == 3
