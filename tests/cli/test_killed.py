"""A training that is killed at random moments, again and again, ends with the same model as one that is left alone."""

import random
import signal
import subprocess
import sys
import time

import ase.io
import pytest

from tests.training.labelled import of_processes, structures, training_file


def command(*arguments):
    return [sys.executable, "-m", "bpjax.cli.main", "train", *map(str, arguments)]


@pytest.mark.exhaustive
def test_ten_kills(tmp_path):
    ase.io.write(tmp_path / "train.extxyz", structures(16))
    config = tmp_path / "config.toml"
    config.write_text(training_file(3000, 100, evaluate=50))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    environment = of_processes(tmp_path / "compiled")
    subprocess.run(command(config, "-o", whole), check=True, capture_output=True, env=environment)
    rng, kills = random.Random(0), 0
    while kills < 10:
        resume = ["--resume"] if (killed / "checkpoint.bpjax").exists() else []
        process = subprocess.Popen(
            command(config, "-o", killed, *resume), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        metrics = killed / "metrics.jsonl"
        before = metrics.read_text() if metrics.exists() else ""
        while process.poll() is None and not (metrics.exists() and metrics.read_text() not in ("", before)):
            time.sleep(0.02)
        time.sleep(rng.random() * 0.3)  # and somewhere in the steps after the first new line
        if process.poll() is not None:
            assert process.returncode == 0, process.stderr.read().decode()
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills == 10, "the run was over before it had been killed ten times: it must be longer"
    subprocess.run(command(config, "-o", killed, "--resume"), check=True, capture_output=True, env=environment)
    assert (killed / "model.bpjax").read_bytes() == (whole / "model.bpjax").read_bytes()
