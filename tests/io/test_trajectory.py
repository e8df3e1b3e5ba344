import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from bpjax.errors import BpjaxError, FormatError, OutputExistsError
from bpjax.io import trajectory
from bpjax.io.labels import labels
from bpjax.io.structures import read_structures
from bpjax.io.trajectory import TrajectoryWriter


def frame(seed):
    random = np.random.default_rng(seed)
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=seed)
    atoms.set_momenta(random.normal(size=(8, 3)))
    atoms.calc = SinglePointCalculator(atoms, energy=random.normal(), forces=random.normal(size=(8, 3)))
    return atoms


def test_frames_are_readable_at_once_and_to_many_digits(tmp_path):
    path = tmp_path / "t.extxyz"
    with TrajectoryWriter(path) as writer:
        for step in range(3):
            atoms = frame(step)
            writer.write(atoms, step=step, time=0.1 * step)
            assert "step" not in atoms.info
            assert len(read_structures(path)) == step + 1
    for step, found in enumerate(read_structures(path)):
        atoms = frame(step)
        np.testing.assert_allclose(found.positions, atoms.positions, rtol=1e-11)
        np.testing.assert_allclose(found.get_momenta(), atoms.get_momenta(), rtol=1e-11)
        np.testing.assert_allclose(labels(found).forces, labels(atoms).forces, rtol=1e-11)
        assert labels(found).energy == labels(atoms).energy
        assert found.info["step"] == step and found.info["time"] == 0.1 * step


def test_existing_file_is_not_touched_unless_asked(tmp_path):
    path = tmp_path / "t.extxyz"
    with TrajectoryWriter(path) as writer:
        writer.write(frame(0))
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match=r"t\.extxyz already exists"):
        TrajectoryWriter(path)
    assert path.read_bytes() == before
    with TrajectoryWriter(path, append=True) as writer:
        writer.write(frame(1))
    assert path.read_bytes().startswith(before) and len(read_structures(path)) == 2
    with TrajectoryWriter(path, overwrite=True) as writer:
        writer.write(frame(0))
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="exclude"):
        TrajectoryWriter(path, append=True, overwrite=True)


def test_appending_cuts_off_half_a_frame(tmp_path):
    path = tmp_path / "t.extxyz"
    with TrajectoryWriter(path, append=True) as writer:
        writer.write(frame(0))
        one = path.stat().st_size
        writer.write(frame(1))
    whole = path.read_bytes()
    for length in range(one, len(whole), 53):
        path.write_bytes(whole[:length])
        with TrajectoryWriter(path, append=True) as writer:
            assert path.stat().st_size == one
            writer.write(frame(1))
        assert path.read_bytes() == whole


def test_appending_to_something_else_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    with pytest.raises(FormatError, match=r"notes\.txt: line 1"):
        TrajectoryWriter(path, append=True)
    assert path.read_text() == "my notes\n"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_interrupted_frame_is_taken_back(tmp_path, monkeypatch, error):
    path = tmp_path / "t.extxyz"
    write = os.write
    with TrajectoryWriter(path) as writer:
        writer.write(frame(0))
        before = path.read_bytes()

        def half(handle, data):
            if len(data) < 500:
                raise error
            return write(handle, data[: len(data) // 2])

        monkeypatch.setattr(trajectory.os, "write", half)
        expected = BpjaxError if isinstance(error, OSError) else KeyboardInterrupt
        with pytest.raises(expected, match="disk is full" if isinstance(error, OSError) else None):
            writer.write(frame(1))
        assert path.read_bytes() == before
        monkeypatch.undo()
        writer.write(frame(1))
    assert len(read_structures(path)) == 2


def test_closed_writer_and_missing_folder(tmp_path):
    writer = TrajectoryWriter(tmp_path / "t.extxyz")
    writer.close()
    writer.close()
    with pytest.raises(BpjaxError, match="closed"):
        writer.write(frame(0))
    with pytest.raises(BpjaxError, match=r"cannot write .*t\.extxyz: the folder does not exist"):
        TrajectoryWriter(tmp_path / "no" / "t.extxyz")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_names_the_file():
    with (
        TrajectoryWriter("/dev/full", overwrite=True) as writer,
        pytest.raises(BpjaxError, match="/dev/full: the disk is full"),
    ):
        writer.write(frame(0))


def test_killed_run_leaves_a_readable_file(tmp_path):
    path = tmp_path / "t.extxyz"
    code = (
        "import sys; from ase.build import bulk; from bpjax.io.trajectory import TrajectoryWriter\n"
        "writer = TrajectoryWriter(sys.argv[1]); atoms = bulk('Si', cubic=True); step = 0\n"
        "while True:\n    writer.write(atoms, step=step); step += 1\n    if step == 20: print('go', flush=True)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert run.stdout is not None and run.stdout.readline() == b"go\n"
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    with TrajectoryWriter(path, append=True):
        pass
    frames = read_structures(path)
    assert len(frames) >= 20 and [atoms.info["step"] for atoms in frames] == list(range(len(frames)))
