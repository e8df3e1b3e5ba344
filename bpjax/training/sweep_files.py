"""What a sweep writes: the table of its trials, and the training file of the best one."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bpjax.errors import ConfigError, FormatError
from bpjax.io.atomic import write_json, write_text
from bpjax.io.json_file import read_json
from bpjax.spec import from_spec
from bpjax.training.sweep_space import Point, frozen

TRIALS, PENDING, IDENTITY = "trials.jsonl", "pending.json", "sweep.json"
"""Finished trials; points that are being trained; what a sweep must agree in to be resumed."""


@dataclass(frozen=True)
class Trial:
    """A point and how its run went.

    Attributes:
      number: of the trial in the study.
      point: value of each option of the space.
      state: "complete", "pruned" (given up by halving) or "diverged".
      steps: how many it made.
      objective: what is minimised; None if it diverged. Of a trial that was given up: at that time.
      errors: validation errors of its best parameters, in eV/atom, eV/A, eV/A^3, and the loss of the training file.
      rungs: steps made and objective at each rung.
      cost: time of energy and forces in microseconds per atom, where it was measured.
    """

    number: int
    point: Point
    state: str
    steps: int
    objective: float | None
    errors: dict[str, float]
    rungs: tuple[tuple[int, float], ...] = ()
    cost: float | None = None


def write_trials(folder: Path, trials: Sequence[Trial]) -> None:
    """Writes `trials.jsonl`, one line for each, and the same as a table, `trials.csv`."""
    write_text(folder / TRIALS, "".join(json.dumps(asdict(t), allow_nan=False) + "\n" for t in trials))
    header, rows = table(trials)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(
        [["" if v is None else json.dumps(v) if isinstance(v, list | tuple) else v for v in r] for r in rows]
    )
    write_text(folder / "trials.csv", text.getvalue())


def read_trials(folder: Path) -> list[Trial]:
    """The trials of an earlier run.

    Raises:
      FormatError: a line that is no trial.
    """
    path = folder / TRIALS
    found = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            trial = from_spec(Trial, json.loads(line, parse_constant=_refuse))
        except (ValueError, RecursionError, ConfigError) as error:
            raise FormatError(path, f"is not a trial of a sweep: {error}", number) from error
        found.append(replace(trial, point={name: frozen(value) for name, value in trial.point.items()}))
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def read_pending(folder: Path) -> list[tuple[int, Point]]:
    """Numbers and points of the trials that were being trained when a sweep was interrupted; none without the file.

    Raises:
      FormatError: it holds something else.
    """
    path = folder / PENDING
    if not path.exists():
        return []
    found = read_json(path, list)
    if not all(isinstance(one, list) and list(map(type, one)) == [int, dict] for one in found):
        raise FormatError(path, "must hold numbers and points of trials")
    return [(number, {name: frozen(value) for name, value in point.items()}) for number, point in found]


def table(trials: Sequence[Trial]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: number, state, steps, objective, the options, the errors, cost."""
    options = list(dict.fromkeys(name for t in trials for name in t.point))
    errors = list(dict.fromkeys(name for t in trials for name in t.errors))
    header = [
        "trial",
        "state",
        "steps",
        "objective",
        *options,
        *(f"validation_{n}" for n in errors),
        "cost_us_per_atom",
    ]
    rows = [
        [
            t.number,
            t.state,
            t.steps,
            t.objective,
            *(t.point.get(n) for n in options),
            *(t.errors.get(n) for n in errors),
        ]
        + [t.cost]
        for t in trials
    ]
    return header, rows


def check_identity(folder: Path, identity: dict[str, Any]) -> None:
    """Writes down what a sweep is, or compares it with what was written; the number of trials may grow.

    Raises:
      ConfigError: the folder holds another sweep; names the first section that differs.
    """
    path = folder / IDENTITY
    now = json.loads(json.dumps(identity))
    if path.exists():
        then = read_json(path, dict)
        for name in sorted({*then, *now}):
            if then.get(name) != now.get(name):
                raise ConfigError(
                    "is not what it was when the sweep began; a sweep resumes as it began", str(path), name
                )
    else:
        write_json(path, now)


def to_toml(spec: Mapping[str, Any]) -> str:
    """Plain values as TOML. What is None is left out, as TOML has no such value.

    >>> print(to_toml({"network": {"hidden": [8, 8], "activation": "silu"}}))
    [network]
    hidden = [8, 8]
    activation = "silu"
    <BLANKLINE>
    """
    return "\n".join(_tables(spec, ())).lstrip("\n") + "\n"


def _tables(spec: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    plain = {k: v for k, v in spec.items() if not isinstance(v, Mapping) and v is not None}
    lines = ["", f"[{'.'.join(map(_key, path))}]"] if path and (plain or not spec) else []
    lines += [f"{_key(name)} = {_value(value)}" for name, value in plain.items()]
    for name, value in spec.items():
        if isinstance(value, Mapping):
            lines += _tables(value, (*path, name))
    return lines


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else json.dumps(name, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str):
        # A JSON string is a TOML string but for the one control character that JSON may hold as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value).lower() if isinstance(value, bool) else repr(value)
