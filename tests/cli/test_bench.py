"""``bpjax bench`` from the outside: a table and JSON lines, one line for each mistake."""

import json

import ase.io
import jax
import pytest

from bpjax.cli.main import main
from bpjax.potential import save
from bpjax.potential.evaluator import Evaluator
from tests.dynamics.model import MODEL, crystal, params

FEW = ("--sizes", "4", "8", "--steps", "4", "--repeats", "2", "--timestep", "0.5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("bench")
    save(found / "model.bpjax", MODEL, params())
    ase.io.write(found / "unit.extxyz", crystal(1, rattle=0.0))
    return found


def bench(folder, *more):
    return main(["bench", str(folder / "model.bpjax"), str(folder / "unit.extxyz"), *map(str, more)])


@pytest.fixture(scope="module")
def lines(folder):
    out = folder / "out.jsonl"
    assert bench(folder, *FEW, "--json", out) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.slow
def test_lines_agree_with_themselves(lines):
    *sizes, last = lines
    assert [line["atoms"] for line in sizes] == [4, 8]
    for line in sizes:
        seconds = 1e-3 * line["ms_per_step"]
        assert line["atom_steps_per_s"] == pytest.approx(line["atoms"] / seconds)
        assert line["ns_per_day"] == pytest.approx(0.5e-6 * 24 * 3600 / seconds)
        assert line["us_per_atom_step"] * line["atoms"] == pytest.approx(1e6 * seconds)
        assert line["us_per_atom_evaluation"] * line["atoms"] == pytest.approx(1e3 * line["ms_per_evaluation"])
        # Compilation takes seconds, steps of eight atoms do not: it is not among the runs.
        assert 1e-3 * line["ms_per_step"] < 0.1 * line["md_compile_s"]
        assert line["memory_gb"] is None or 0.05 < line["memory_gb"]
        assert (line["dtype"], line["device"], line["versions"]["jax"]) == (
            "float32",
            jax.devices()[0].device_kind,
            jax.__version__,
        )
        # The program holds at least positions, momenta and forces of float32, twice: before and after.
        assert 2 * 9 * 4 * line["atoms"] / 1e9 < line["program_gb"] < 0.1
    growth = (sizes[1]["program_gb"] - sizes[0]["program_gb"]) / 4
    if growth <= 0 or last["memory_limit_gb"] is None:
        assert last["largest_atoms"] is None and last["kb_per_atom"] is None
    else:
        assert last["kb_per_atom"] == pytest.approx(1e6 * growth)
        left = last["memory_limit_gb"] - sizes[1]["memory_gb"]
        assert last["largest_atoms"] == pytest.approx(8 + left / growth, rel=1e-6, abs=1)
    assert last["cores"] >= 1 and last["versions"] == sizes[0]["versions"]


def test_repeated_structures_have_the_energy_of_the_unit(lines):
    unit = crystal(1, rattle=0.0)
    expected = Evaluator(MODEL, params(), "float64").evaluate(unit).energy / len(unit)
    for line in lines[:-1]:
        # float32: a sum of terms of some eV, relative to offsets of 1000 eV.
        assert line["energy_per_atom"] == pytest.approx(expected, abs=2e-5)
        assert line["neighbors"] == 12.0  # fcc, one shell within the cutoff


def test_table(folder, lines, capsys):
    from bpjax.analysis.speed import Speed
    from bpjax.cli.bench import print_speeds

    fields = Speed.__dataclass_fields__
    print_speeds([Speed(**{name: line[name] for name in fields}) for line in lines[:-1]], lines[0])
    title, header, first, second = capsys.readouterr().out.splitlines()
    assert "float32" in title and jax.__version__ in title
    assert header.split()[0] == "atoms" and "ns/day" in header
    assert (first.split()[0], second.split()[0]) == ("4", "8")
    assert float(first.split()[4]) == pytest.approx(lines[0]["ms_per_step"], rel=1e-3)


def test_existing_output_is_left_alone(folder, lines, capsys):
    before = (folder / "out.jsonl").read_bytes()
    assert bench(folder, *FEW, "--json", folder / "out.jsonl") == 2
    assert "already exists" in capsys.readouterr().err
    assert (folder / "out.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--sizes", "0"), ("sizes", "at least 1")),
        (("--sizes", "10", "-5"), ("5",)),
        (("--sizes", "ten"), ("ten",)),
        (("--steps", "0"), ("steps 0", "at least 1")),
        (("--repeats", "0"), ("repeats 0", "at least 1")),
        (("--dtype", "float16"), ("float16", "float32")),
        (("--frame", "3"), ("3",)),
        (("--json", "nowhere/out.jsonl"), ("nowhere", "does not exist")),
        (("--stepz", "3"), ("stepz",)),
    ],
)
def test_bad_options(folder, tmp_path, monkeypatch, capsys, more, words):
    monkeypatch.chdir(tmp_path)
    assert bench(folder, *more) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and all(word in message for word in words), message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "word"), [(("--timestep", "0"), "timestep"), (("--temperature", "-1"), "temperature")]
)
def test_bad_settings_of_the_dynamics(folder, capsys, more, word):
    assert bench(folder, "--sizes", "4", *more) == 2
    message = capsys.readouterr().err
    assert word in message.splitlines()[-1]


def test_unknown_element(folder, tmp_path, capsys):
    atoms = crystal(1)
    atoms.symbols[1] = "Kr"
    ase.io.write(tmp_path / "krypton.extxyz", atoms)
    assert main(["bench", str(folder / "model.bpjax"), str(tmp_path / "krypton.extxyz"), "--sizes", "4"]) == 2
    assert "Kr" in capsys.readouterr().err.splitlines()[-1]
