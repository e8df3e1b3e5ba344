"""What README.md tells readers to type works."""

import ast
import builtins
import re
import sys
from pathlib import Path

import pytest

from bpjax.cli import COMMANDS
from bpjax.spec import from_toml
from bpjax.training import KalmanFilter, TrainingOptions

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def test_begins_with_the_two_commands():
    install, test = blocks("sh")[:2]
    assert install.strip().endswith("bpjax quickstart") and " -m pytest" in test
    for command in (install, test):
        assert len(command.splitlines()) == 1 and command.startswith("python3 -m venv .venv && ")
    before = TEXT[: TEXT.index(test)]
    assert before.count("\n\n") <= 4  # title, one sentence for each command, and the commands


def test_training_file_is_accepted(tmp_path):
    path = tmp_path / "config.toml"
    found = []
    for text in blocks("toml"):
        path.write_text(text, encoding="utf-8")
        found.append(from_toml(TrainingOptions, path))
        assert found[-1].data.train == ("train.extxyz",)
    first, more, kalman = found
    assert first.descriptor.cutoff == 5.5 and more.ensemble.members == 8
    assert isinstance(kalman.optimizer, KalmanFilter) and kalman.loss.stress is None


def test_every_command_is_in_the_table():
    listed = re.findall(r"^\| `bpjax (\w+)", TEXT, flags=re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.slow
def test_example_runs(tmp_path, monkeypatch, capsys):
    import ase.io

    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 18
    for long, short in (("steps=8000", "steps=20"), ("steps=200,", "steps=100,"), ("cutoff=5.5", "cutoff=4.0")):
        assert long in code
        code = code.replace(long, short)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert float(capsys.readouterr().out.split()[0]) == pytest.approx(-107.0 * 8, abs=20)
    assert len(ase.io.read("nvt.extxyz", ":")) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="the commands are for a POSIX shell")
def test_ci_runs_the_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (pattern,) = re.findall(r"grep -m 1 -E '([^']+)' README.md", script)
    assert re.search(pattern, TEXT, flags=re.MULTILINE)


def test_names_in_code_are_explained():
    """Each block of Python can be pasted as it is: what it uses is imported or made in it."""
    for language in ("py", "python"):
        for code in blocks(language):
            tree, known = ast.parse(code), set(dir(builtins))
            for node in ast.walk(tree):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    known |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    known.add(node.id)
            used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
            assert used <= known, (used - known, code)


@pytest.mark.slow
def test_code_about_descriptors_runs(tmp_path, monkeypatch):
    """The sections from SOAP to the baselines, each block by itself, with fewer structures and steps."""
    section = TEXT[TEXT.index("## SOAP") : TEXT.index("## ANI potentials")]
    shorter = (
        ('silicon_train.extxyz")\npool', 'silicon_train.extxyz", "::20")\npool'),
        (
            "TrainingOptions(data, descriptor)",
            "TrainingOptions(data, descriptor, optimizer=OptimizerOptions(steps=20))",
        ),
        ("import DataOptions,", "import DataOptions, OptimizerOptions,"),
        ('silicon_test.extxyz")\n', 'silicon_test.extxyz", "::4")\n'),
        ('silicon_{name}.extxyz")', 'silicon_{name}.extxyz", "::20")'),
        ("points=300", "points=30"),
    )
    monkeypatch.chdir(tmp_path)
    found, changed = {}, set()
    for code in re.findall(r"^```py\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL):
        for long, short in shorter:
            changed |= {long} if long in code else set()
            code = code.replace(long, short)
        names = {}
        exec(compile(code, "README.md", "exec"), names)
        found |= {"chosen": names["descriptor"]} if "pool" in names else names
    assert changed == {long for long, _ in shorter}
    assert found["chosen"].size == 24 and found["dG_dR"].shape[-1] == found["descriptor"].size
    assert found["K"].shape == found["d"].shape and len(found["K"]) == len(found["features"])
    assert (tmp_path / "gp.bpjax").exists()


@pytest.mark.slow
def test_code_about_excited_states_runs(tmp_path, monkeypatch):
    section = TEXT[TEXT.index("## Excited states") :]
    (code,) = re.findall(r"^```py\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    assert "StatesTraining())" in code
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code.replace("StatesTraining())", "StatesTraining(epochs=2))"), "README.md", "exec"), names)
    assert names["states"].energies.shape == (3,) and (tmp_path / "ch2nh2.bpjax").exists()
