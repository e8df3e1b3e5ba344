"""What the commands say of atoms outside the range of training, with n2p2's meaning; see `bpjax.potential.extrapolation`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ase

    from bpjax.potential.evaluator import Evaluation, Evaluator

LINES = 10
"""Most warnings that are shown one by one."""


def structures_outside(results: Sequence[Evaluation]) -> list[int]:
    """Numbers of the structures with a feature outside the range of training."""
    return [n for n, result in enumerate(results) if result.outside is not None and result.outside.any()]


def summary(results: Sequence[Evaluation]) -> str:
    """How many warnings there are, in how many structures."""
    warnings = sum(int(result.outside.sum()) for result in results if result.outside is not None)
    found = len(structures_outside(results))
    return f"extrapolation: {warnings} warnings in {found} of {len(results)} structures"


def show_warnings(evaluator: Evaluator, frames: Sequence[ase.Atoms], results: Sequence[Evaluation]) -> None:
    """The first warnings, in n2p2's form, and how many there are, on standard error; nothing if there are none."""
    from bpjax.potential.extrapolation import format_extrapolation

    shown = 0
    for number in structures_outside(results):
        for warning in evaluator.extrapolations(frames[number], number)[: LINES - shown]:
            print(format_extrapolation(warning), file=sys.stderr)
            shown += 1
        if shown == LINES:
            break
    if structures_outside(results):
        print(f"bpjax: {summary(results)}; atoms and structures count from 0", file=sys.stderr)


def offending(frames: Sequence[ase.Atoms], results: Sequence[Evaluation]) -> list[ase.Atoms]:
    """Copies of the structures outside the range of training, with their own labels and not the model's.

    They get the array ``outside``, the number of features of each atom, and their number ``frame`` in the file.
    """
    from bpjax.io.extxyz import keep_texts

    chosen = []
    for number in structures_outside(results):
        atoms = frames[number].copy()
        atoms.calc = frames[number].calc
        atoms.arrays["outside"] = results[number].outside
        atoms.info["frame"] = number
        keep_texts(atoms)
        chosen.append(atoms)
    return chosen
