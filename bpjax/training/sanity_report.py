"""The sanity report of a data set: findings, and numbers of each split, as text and as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bpjax.training.splits import Split

_SHOWN = 5


@dataclass(frozen=True)
class Place:
    """One structure, and what it is named for."""

    path: str
    frame: int
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.path}: frame {self.frame}{f': {self.detail}' if self.detail else ''}"


def places(split: Split, chosen: np.ndarray, details: Sequence[str] = ()) -> tuple[Place, ...]:
    """Some structures of a split, and what each is named for."""
    return tuple(
        Place(*split.sources[n], detail=detail)
        for n, detail in zip(chosen.tolist(), details or [""] * len(chosen), strict=True)
    )


@dataclass(frozen=True)
class Finding:
    """One thing to know about the data.

    Attributes:
      kind: labels, units, net_force, net_torque, duplicates, conflict, leakage, outlier, offsets or small.
      warning: whether it is likely a mistake.
      message: one line.
      where: the structures concerned, all of them.
      certain: whether the labels contradict each other beyond doubt.
    """

    kind: str
    warning: bool
    message: str
    where: tuple[Place, ...] = ()
    certain: bool = False

    def lines(self) -> list[str]:
        """The finding as text, with the first few structures."""
        more = len(self.where) - _SHOWN
        shown = [f"  {place}" for place in self.where[:_SHOWN]]
        return [
            f"{'warning' if self.warning else 'note'}: {self.message}",
            *shown,
            *([f"  and {more} more"] * (more > 0)),
        ]


@dataclass(frozen=True)
class SanityReport:
    """What the data are, and what is odd about them.

    Attributes:
      splits: numbers of each split: structures, atoms, labels, ranges of energies and forces, smallest distances.
      findings: what to look at, warnings first.
    """

    splits: dict[str, dict[str, Any]]
    findings: tuple[Finding, ...]

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that are likely mistakes."""
        return tuple(f for f in self.findings if f.warning)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return {
            "splits": self.splits,
            "findings": [{**asdict(f), "where": [asdict(p) for p in f.where]} for f in self.findings],
        }

    def lines(self) -> list[str]:
        """The report as lines of text."""
        lines = [line for name, found in self.splits.items() for line in _describe(name, found)]
        return lines + [line for finding in self.findings for line in finding.lines()]


def _describe(name: str, found: Mapping[str, Any]) -> list[str]:
    def span(values: Sequence[float | None]) -> str:
        return f"{values[0]:.4f} to {values[1]:.4f}"

    elements = ", ".join(f"{n} {e}" for e, n in found["elements"].items())
    labels = ", ".join(f"{n} {label}" for label, n in found["labels"].items() if n) or "none"
    few, many = found["smallest"], found["largest"]
    size = f"{few} to {many}" if few != many else f"{few}"
    lines = [
        f"{name}: {found['structures']} structures of {size} atoms ({elements})",
        f"  labels: {labels}",
    ]
    if found["energy_per_atom"][0] is not None:
        lines.append(
            f"  energy {span(found['energy_per_atom'])} eV/atom, less that of the composition "
            f"{span(found['energy_less_composition'])}"
        )
    if found["force_rms"] is not None:
        text = f"  forces {found['force_rms']:.3f} eV/A rms, at most {found['force_max']:.3f}; net {found['net_force_max']:.2g}"
        lines.append(
            text if found["stress_max"] is None else f"{text}; stress at most {found['stress_max']:.3g} eV/A^3"
        )
    if found["closest"]:
        lines.append("  closest " + ", ".join(f"{pair} {r:.2f} A" for pair, r in found["closest"].items()))
    return lines
