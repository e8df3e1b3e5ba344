"""Compiling quickly rather than well, on a CPU: most of the time of the tests is the compiler's, not that of what it makes.

A program is compiled four to eight times as fast so, and runs some times slower. What this could hide, faults of fusion and of
vectorised code, the tests marked `as_users` look for: `.ci/run` runs them with `--as-users`, compiled as everybody has it. See
README.md in this folder.
"""

import os
import threading

import jax
import jaxlib

try:
    from jax._src.interpreters import mlir
except ImportError:  # not public: where it has moved, tests only take longer
    mlir = None

# Later versions have no such emitters, and end the process at a flag that they do not know.
OLD_EMITTERS = tuple(map(int, jaxlib.__version__.split(".")[:2])) < (0, 11)

OPTIONS: dict[str, bool | int] = {"xla_backend_optimization_level": 0, "xla_cpu_parallel_codegen_split_count": 1}
"""For `jax.jit(compiler_options=...)` of large programs that run a few times, unlike any of users: quick in every run."""

if OLD_EMITTERS:
    OPTIONS["xla_cpu_use_fusion_emitters"] = False  # loops written at once, not by way of MLIR


def with_flags(*flags: str) -> str:
    """XLA_FLAGS of this process with more of them, for one that it starts."""
    return " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()


def choose() -> None:
    """For this process, which must not have used a device yet, and for those that it starts."""
    flags = (f"--{name}={str(value).lower()}" for name, value in OPTIONS.items() if name.startswith("xla_cpu"))
    os.environ["XLA_FLAGS"] = with_flags(*flags)
    if jax.default_backend() == "cpu":
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        jax.config.update("jax_disable_most_optimizations", True)
        if mlir is not None and hasattr(mlir, "make_ir_context"):
            mlir.make_ir_context = Contexts(mlir.make_ir_context)


class Contexts:
    """JAX makes and destroys a context of MLIR for each program, which takes a third of the time of a small one. Here each thread
    uses one for many programs; it does not change them. (Of one that is used for ever the memory would only grow.)"""

    PROGRAMS = 500

    def __init__(self, make):
        self.make, self.kept = make, threading.local()

    def __call__(self):
        if not getattr(self.kept, "left", 0):
            self.kept.context, self.kept.left = self.make(), self.PROGRAMS
        self.kept.left -= 1
        return self.kept.context
