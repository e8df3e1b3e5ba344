import io
import sys

import pytest

from bpjax import progress as module
from bpjax.progress import counted, patient, progress, silent


class Terminal(io.StringIO):
    def isatty(self):
        return True


def work(show, steps=3):
    with show(steps, "baking [bread]") as bar:
        for step in range(steps):
            bar.update(1, loss=0.123456789, kind="[rye]", step=step)
            if step == 1:
                bar.note("oven [hot]")


def test_lines(capsys, monkeypatch):
    work(progress)
    note, last = capsys.readouterr().err.splitlines()
    assert note == "baking [bread]: oven [hot]"
    assert last.startswith("baking [bread]: 3/3 loss=0.1235 kind=[rye] step=2 (")
    monkeypatch.setattr(module, "LINE_INTERVAL", 0.0)
    work(progress)
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    work(progress)
    text = sys.stderr.getvalue()
    assert "baking [bread]" in text and "3/3" in text and "loss=0.1235 kind=[rye]" in text and "oven [hot]" in text


def test_start_of_a_resumed_run(capsys):
    with progress(5, "x", start=3) as bar:
        bar.update(2)
    assert "x: 5/5" in capsys.readouterr().err


def test_quick_work_is_not_shown(capsys, monkeypatch):
    work(patient)
    assert capsys.readouterr().err == "baking [bread]: oven [hot]\n"
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    work(patient)
    assert "baking [bread]: 3/3 loss" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(module, "PATIENCE", 60.0)
    with patient(3, "quick") as bar:
        assert list(counted("abc", bar)) == ["a", "b", "c"]
    assert sys.stderr.getvalue() == ""
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    with patient(3, "slow") as bar:
        assert list(counted("abc", bar)) == ["a", "b", "c"]
    assert "slow" in sys.stderr.getvalue() and "3/3" in sys.stderr.getvalue()


def test_unknown_total(capsys, monkeypatch):
    with progress(0, "reading") as bar:
        bar.update(5)
    assert capsys.readouterr().err.startswith("reading: 5 (")
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress(0, "reading") as bar:
        bar.update(5)
    assert "5/?" in sys.stderr.getvalue()


@pytest.mark.parametrize("show", [silent, progress, patient])
def test_errors_pass(show, capsys):
    with pytest.raises(KeyError), show(2, "x"):
        raise KeyError
    assert capsys.readouterr().err == ""


def test_silence(capsys):
    work(silent)
    assert capsys.readouterr() == ("", "")
