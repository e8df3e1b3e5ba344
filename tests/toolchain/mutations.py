"""Do the tests notice faults? Each one below goes into a copy of the checkout, alone, and the tests run there.

    python tests/toolchain/mutations.py --check
    python tests/toolchain/mutations.py --tier fast [--only NAME ...] [--json FILE] [--least N]
    python tests/toolchain/mutations.py --tier slow [--only NAME ...] [--json FILE] [--least N]

With `--tier fast` run the tests that a plain `pytest` runs; with `--tier slow` those of `.ci/run`: the fast ones and,
where they notice nothing, the slow ones, then those that are compiled as users have it. First come the rooms of a
fault, the tests nearest to it, and if nothing fails there all of them. One line for each fault says which test failed
first (`caught by`), that none did (`SURVIVED`), or that nothing can be said (`BROKEN`): modules that cannot be
imported, a process that crashes or never ends, a test that fails without the fault too. Only the first kind counts.
The exit status is 1 when fewer are caught than `--least`, by default nine of ten for the fast tier and all for the slow
one, and 2 when the table no longer fits the code.

This is not a part of `.ci/run`: it tests the tests, and is for whoever has thinned them out or moved them between
tiers. It takes two cores. A fault that its rooms notice costs a minute or two, and the whole table on the fast tier half
an hour, with programs kept from earlier runs; each fault that they do not notice costs a whole run of the tier.
`--only` takes some of them. What is tried is a copy of what git does not ignore, made at the start; the checkout may
change meanwhile.

To add a fault, add a `Mutation` to the table. `old` is text that the file has exactly once, `new` what a tired person
might have written: it must run, be reached by what users run on a CPU, and give wrong results. `--check` takes a
second and says which entries are stale after the code has changed. A fault that survives is a test that is missing:
write that test, and leave the fault as it is.
"""

import argparse
import ast
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

STAGES = {
    "fast": (),
    "slow": ("-m", "slow and not as_users and not exhaustive"),
    "as-users": ("--as-users", "-m", "as_users and not exhaustive"),
}
"""What selects the tests of each stage of `.ci/run`; the fast ones are the default of pyproject.toml."""

TIERS = {"fast": ("fast",), "slow": tuple(STAGES)}
"""Which of them run, one after the other, until one notices a fault."""


@dataclass(frozen=True)
class Mutation:
    """A fault.

    Attributes:
      name: for `--only` and the report.
      effect: what it means for a user.
      file: where, below bpjax/.
      old, new: text that stands there once, and what takes its place.
      rooms: folders and files of tests that should notice it, the nearest one first.
    """

    name: str
    effect: str
    file: str
    old: str
    new: str
    rooms: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "virial-sign",
        "pressures have the wrong sign, a barostat blows the cell up",
        "geometry.py",
        'return -jnp.einsum("ija,ijb->ab", R_ij, g)',
        'return jnp.einsum("ija,ijb->ab", R_ij, g)',
        ("tests/test_geometry.py", "tests/potential"),
    ),
    Mutation(
        "angular-factor",
        "angular functions are half of what n2p2 and the literature mean by their parameters",
        "descriptors/acsf_kernels.py",
        "powers.append(2 * power)",
        "powers.append(power)",
        ("tests/descriptors",),
    ),
    Mutation(
        "cutoff-derivative",
        "forces of the fast form are not the derivative of the energy",
        "descriptors/lane_sums.py",
        "jnp.where(inside, _horner(df, y) * cutoff.radius**-2, 0)",
        "jnp.where(inside, _horner(df, y), 0)",
        ("tests/descriptors/test_lanes.py", "tests/potential"),
    ),
    Mutation(
        "padding-slot",
        "in the fast form the first neighbour counts once more for every place that is free",
        "descriptors/lane_functions.py",
        "self.c = jnp.where(self.where.free, 0, c).astype(R.dtype)",
        "self.c = jnp.broadcast_to(c, self.where.free.shape).astype(R.dtype)",
        ("tests/descriptors/test_lanes.py", "tests/potential"),
    ),
    Mutation(
        "soap-norm",
        "features of SOAP are not those of DScribe and featomic, and the centre weighs too little",
        "descriptors/soap.py",
        "(2 * np.arange(l_max + 1) + 1) / (4 * np.pi)",
        "(2 * np.arange(l_max + 1) + 1) / 4 * np.pi",
        ("tests/descriptors/test_soap.py", "tests/descriptors/test_soap_reference.py"),
    ),
    Mutation(
        "image-shift",
        "in slabs and wires the images of an atom are where the atom itself is",
        "neighbors.py",
        "periodic = np.any(np.asarray(pbc, dtype=bool)) and cell is not None",
        "periodic = np.all(np.asarray(pbc, dtype=bool)) and cell is not None",
        ("tests/test_neighbors.py", "tests/potential"),
    ),
    Mutation(
        "skin",
        "a neighbour list of the ASE calculator is used for twice as long as it holds all neighbours",
        "potential/preparation.py",
        "return bool(2 * moved <= skin and",
        "return bool(moved <= skin and",
        ("tests/potential/test_evaluator.py", "tests/interop/test_ase.py"),
    ),
    Mutation(
        "species-index",
        "in large structures the number of a block is taken for the element of its atoms",
        "potential/blocks.py",
        "return ElementBlocks(s, members,",
        "return ElementBlocks(jnp.arange(count), members,",
        ("tests/potential", "tests/descriptors/test_lanes.py"),
    ),
    Mutation(
        "scaling-variance",
        "features are divided by their variance, so that networks start from inputs of all sizes",
        "networks/scaling.py",
        "spread = np.sqrt(square)",
        "spread = square",
        ("tests/networks", "tests/training"),
    ),
    Mutation(
        "extrapolation-never",
        "nobody is warned of structures outside of the training data",
        "networks/scaling.py",
        "return (G < low - slack(low)) | (G > high + slack(high))",
        "return (G < low - slack(low)) & (G > high + slack(high))",
        ("tests/networks", "tests/potential/test_extrapolation.py"),
    ),
    Mutation(
        "loss-weight",
        "weights of structures have no effect on what is fitted",
        "training/losses.py",
        "return jnp.sum(targets.weight * terms), jnp.sum(targets.weight)",
        "return jnp.sum(terms), jnp.sum(targets.weight)",
        ("tests/training/test_losses.py", "tests/training"),
    ),
    Mutation(
        "checkpoint-average",
        "a run that is resumed has forgotten the averaged parameters, and ends in another model",
        "training/fit.py",
        "self.state = self._placed(jax.tree.map(jnp.asarray, self.state))",
        "state = jax.tree.map(jnp.asarray, self.state)\n"
        "        self.state = self._placed(state._replace(average=state.trained))",
        ("tests/training/test_fit.py", "tests/training"),
    ),
    Mutation(
        "split-leak",
        "structures that are set aside for validation are trained on too",
        "training/splits.py",
        "kept = sorted(set(range(len(split))) - set(aside))",
        "kept = sorted(set(range(len(split))))",
        ("tests/training/test_splits.py", "tests/training"),
    ),
    Mutation(
        "kalman-fading",
        "a filter with fading memory trusts old data the more the older they are",
        "training/kalman.py",
        "P = P if lam is None else P / lam",
        "P = P if lam is None else P * lam",
        ("tests/training/test_kalman.py", "tests/training"),
    ),
    Mutation(
        "runner-forces",
        "forces of RuNNer files in hartree and bohr are read in the wrong unit",
        "io/runner.py",
        "[energy_unit / length_unit] * 3",
        "[energy_unit * length_unit] * 3",
        ("tests/io",),
    ),
    Mutation(
        "stress-order",
        "yz and xy of the stresses in data files are swapped",
        "io/structures.py",
        "return voigt_6_to_full_3x3_stress(value)",
        "return voigt_6_to_full_3x3_stress(value[[0, 1, 2, 5, 4, 3]])",
        ("tests/io/test_structures.py", "tests/io"),
    ),
    Mutation(
        "thermostat-freedom",
        "under a thermostat eight atoms are 14 % hotter than asked for, and the log does not show it",
        "dynamics/ensembles.py",
        'return 3 * atoms if ensemble == "nvt_langevin" or atoms == 1 else 3 * atoms - 3',
        "return 3 * atoms",
        ("tests/dynamics/test_run.py", "tests/dynamics"),
    ),
    Mutation(
        "overflow",
        "dynamics go on with a neighbour list that has no room for all neighbours",
        "dynamics/lists.py",
        "_FAILURES = PEC.NEIGHBOR_LIST_OVERFLOW | PEC.CELL_LIST_OVERFLOW | PEC.CELL_SIZE_TOO_SMALL",
        "_FAILURES = PEC.CELL_LIST_OVERFLOW | PEC.CELL_SIZE_TOO_SMALL",
        ("tests/dynamics/test_jaxmd.py", "tests/dynamics"),
    ),
    Mutation(
        "replica-neighbours",
        "all replicas see the atoms of the first one",
        "dynamics/together.py",
        "j = jnp.asarray(self.layout.first)[r] + (found // len(offsets)).astype(jnp.int32)",
        "j = (found // len(offsets)).astype(jnp.int32)",
        ("tests/dynamics/test_replicas.py",),
    ),
    Mutation(
        "hop-without-rescaling",
        "hops are free: the total energy jumps with each of them",
        "excited/hopping.py",
        "v = jnp.where(accepted, jnp.where(free, s.v, paid.velocity), jnp.where(tried, kept, s.v))",
        "v = jnp.where(tried & ~accepted, kept, s.v)",
        ("tests/excited/test_integrators.py", "tests/excited"),
    ),
    Mutation(
        "sign-following",
        "couplings change their sign in the middle of a step wherever the library turns a state over",
        "excited/hopping.py",
        "U1, E1 = m.U[:, order] * sign, m.E[order]",
        "U1, E1 = m.U[:, order], m.E[order]",
        ("tests/excited/test_hopping.py", "tests/excited"),
    ),
    Mutation(
        "complex-phase",
        "with spin-orbit coupling amplitudes depend on the arbitrary phases of the states",
        "excited/hopping_amplitudes.py",
        "P = after[:, None] * T.conj().T * before[None, :]",
        "P = after[:, None] * T.T * before[None, :]",
        ("tests/excited/test_hopping.py", "tests/excited"),
    ),
    Mutation(
        "ase-stress-sign",
        "optimisers of ASE expand a cell that should be compressed",
        "interop/ase.py",
        "full_3x3_to_voigt_6_stress(result.stress)",
        "full_3x3_to_voigt_6_stress(-result.stress)",
        ("tests/interop/test_ase.py",),
    ),
    Mutation(
        "n2p2-eta",
        "models written for n2p2 in bohr have functions of another width",
        "interop/n2p2/export.py",
        "eta=f.eta / factor**2",
        "eta=f.eta * factor**2",
        ("tests/interop/n2p2",),
    ),
)


@dataclass(frozen=True)
class Verdict:
    """What came of a fault.

    Attributes:
      word: "caught", "SURVIVED" or "BROKEN".
      tier: the stage of the last tests that ran.
      test: the first one that failed.
      why: its message, or what is broken.
      seconds: of all runs.
    """

    word: str
    tier: str
    test: str = ""
    why: str = ""
    seconds: float = 0.0


# ------------------------------------------------------------------------------------------------ the table


def misfit(mutation: Mutation) -> str:
    """Why a fault does not fit the checkout; empty if it does."""
    path = ROOT / "bpjax" / mutation.file
    if not path.is_file():
        return f"bpjax/{mutation.file} is not there"
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        return f"its text stands {text.count(mutation.old)} times in bpjax/{mutation.file}, not once"
    try:
        ast.parse(text.replace(mutation.old, mutation.new))
    except SyntaxError as error:
        return f"bpjax/{mutation.file} would not be Python any more: {error}"
    gone = [room for room in mutation.rooms if not (ROOT / room).exists()]
    return f"{gone[0]} is not there" if gone else ""


# ---------------------------------------------------------------------------------------------- the copies


@contextmanager
def copy_of_checkout() -> Iterator[Path]:
    """A copy of all files that git does not ignore: what is tried, whatever becomes of the checkout meanwhile."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    with beside_the_data() as copy:
        for name in map(os.fsdecode, filter(None, listed.stdout.split(b"\0"))):
            if os.path.lexists(ROOT / name):  # else deleted, but not yet for git
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
        check_import(copy)
        yield copy


@contextmanager
def with_fault(mutation: Mutation, sound: Path) -> Iterator[Path]:
    """A copy of the copy, with the fault."""
    with beside_the_data() as copy:
        leftovers = shutil.ignore_patterns("__pycache__", ".hypothesis")  # of tests that were confirmed there
        shutil.copytree(sound, copy, symlinks=True, ignore=leftovers, dirs_exist_ok=True)
        path = copy / "bpjax" / mutation.file
        path.write_text(path.read_text(encoding="utf-8").replace(mutation.old, mutation.new), encoding="utf-8")
        check_import(copy)
        yield copy


@contextmanager
def beside_the_data() -> Iterator[Path]:
    """An empty folder for a checkout, with the data that tests look for in ../shared, if there are any."""
    with tempfile.TemporaryDirectory(prefix="bpjax-mutation-") as folder:
        copy = Path(folder).resolve() / "checkout"
        copy.mkdir()
        if (ROOT.parent / "shared").is_dir():
            (copy.parent / "shared").symlink_to(ROOT.parent / "shared")
        yield copy


def environment(copy: Path) -> dict[str, str]:
    """That of .ci/run; programs that tests start find the package in the copy too."""
    return {"JAX_PLATFORMS": "cpu", "MPLBACKEND": "Agg", **os.environ, "PYTHONPATH": str(copy)}


def check_import(copy: Path) -> None:
    """Raises unless the package is that of the copy: one that is installed must not take its place."""
    code = "import bpjax; print(bpjax.__file__)"
    status, text = output_of([sys.executable, "-c", code], copy, 600)
    if status != 0 or Path(text.strip()).resolve() != copy / "bpjax" / "__init__.py":
        raise RuntimeError(f"the tests in {copy} would not import bpjax from there, but: {text.strip()}")


# ------------------------------------------------------------------------------------------------ the tests


def output_of(command: list[str], copy: Path, limit: float) -> tuple[int | None, str]:
    """Exit status and output of a command in the copy; no status where it took longer than `limit` seconds."""
    process = subprocess.Popen(
        command, cwd=copy, env=environment(copy), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        text, _ = process.communicate(timeout=limit)
        return process.returncode, text
    except BaseException as error:
        # The session that was started here: pytest, its workers, and what tests have started.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            return None, ""
        raise


def pytest_of(stage: str, targets: tuple[str, ...], workers: bool = True) -> list[str]:
    """The command that runs the tests of a stage in these folders and files; without any in all of them."""
    parallel = ["-x", "-n", "2"] if workers else []
    return [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", *parallel, *STAGES[stage], *targets]


def reading(tier: str, status: int | None, text: str, limit: float) -> Verdict:
    """What a run of the tests says.

    The exit status of pytest is not enough: with workers it is that of an interruption as soon as a test has failed.
    """
    if status is None:
        return Verdict("BROKEN", tier, why=f"took longer than {limit:g} s")
    _, _, summary = text.partition("short test summary info")
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", summary, re.MULTILINE)
    modules = [place for place in failed if "::" not in place]
    if modules:
        return Verdict("BROKEN", tier, why=f"{modules[0]} cannot be collected")
    if "crashed while running" in text:
        return Verdict("BROKEN", tier, "".join(failed[:1]), "a process of the tests has crashed")
    if status in (1, 2) and failed:
        message = re.findall(r"^E +(\S.*)$", text, re.MULTILINE)[:3]
        return Verdict("caught", tier, failed[0], " ".join(message))
    if status in (0, 5):  # 5: no tests, in rooms without any of this tier
        return Verdict("SURVIVED", tier, why="" if status == 0 else "no tests")
    last = text.strip().splitlines()[-1:] or [""]
    return Verdict("BROKEN", tier, why=f"pytest ended with status {status}: {last[0]}")


def confirmed(verdict: Verdict, sound: Path, limit: float) -> Verdict:
    """A test that also fails in a copy without a fault says nothing."""
    command = pytest_of(verdict.tier, (verdict.test,), workers=False)
    status, _ = output_of(command, sound, limit)
    return verdict if status == 0 else replace(verdict, word="BROKEN", why="fails without the fault too")


def judged(mutation: Mutation, tier: str, sound: Path, limit: float) -> Verdict:
    """Runs tests until one notices the fault: of each stage those of its rooms, then all."""
    began = time.monotonic()
    verdict = Verdict("BROKEN", tier)
    with with_fault(mutation, sound) as copy:
        for name, targets in [(name, targets) for name in TIERS[tier] for targets in (mutation.rooms, ())]:
            verdict = reading(name, *output_of(pytest_of(name, targets), copy, limit), limit)
            if verdict.word != "SURVIVED":
                break
            if verdict.why and not targets:  # no tests in rooms may be, but none at all?
                verdict = replace(verdict, word="BROKEN")
                break
    if verdict.word == "caught":
        verdict = confirmed(verdict, sound, limit)
    return replace(verdict, seconds=round(time.monotonic() - began, 1))


def line_of(mutation: Mutation, verdict: Verdict) -> str:
    found = {
        "caught": f"caught by {verdict.test}",
        "SURVIVED": f"SURVIVED: {mutation.effect}",
        "BROKEN": f"BROKEN: {' '.join(filter(None, (verdict.test, verdict.why)))}",
    }[verdict.word]
    return f"{mutation.name:22s} {found} ({verdict.tier}, {verdict.seconds:.0f} s)"


def least_of(tier: str, count: int) -> int:
    """How many of so many faults a tier must catch."""
    return math.ceil(0.9 * count) if tier == "fast" else count


def run(options: argparse.Namespace, chosen: list[Mutation]) -> int:
    """Tries the faults one after the other; the exit status."""
    caught, least = 0, least_of(options.tier, len(chosen)) if options.least is None else options.least
    if options.json is not None:
        options.json.write_text("")
    with copy_of_checkout() as sound:
        for mutation in chosen:
            verdict = judged(mutation, options.tier, sound, options.limit)
            caught += verdict.word == "caught"
            print(line_of(mutation, verdict), flush=True)
            if options.json is not None:
                with options.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"name": mutation.name, "file": mutation.file, **asdict(verdict)}) + "\n")
    print(f"{caught} of {len(chosen)} caught, {least} asked for")
    return int(caught < least)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only see whether the table fits the code")
    parser.add_argument("--tier", choices=TIERS, default="fast")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[m.name for m in MUTATIONS], help="some faults")
    parser.add_argument("--json", type=Path, metavar="FILE", help="one line of JSON for each fault")
    parser.add_argument("--least", type=int, metavar="N", help="how many must be caught (default: 9 of 10, or all)")
    parser.add_argument("--limit", type=float, default=4 * 3600.0, help="seconds that one run of tests may take")
    options = parser.parse_args()
    stale = [f"{m.name}: {reason}" for m in MUTATIONS if (reason := misfit(m))]
    if len({m.name for m in MUTATIONS}) < len(MUTATIONS):
        stale.append("two faults have one name")
    if stale:
        print("\n".join(stale), file=sys.stderr)
        return 2
    if options.check:
        print(f"all {len(MUTATIONS)} faults fit the code")
        return 0
    return run(options, [m for m in MUTATIONS if options.only is None or m.name in options.only])


if __name__ == "__main__":
    sys.exit(main())
