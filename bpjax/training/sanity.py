"""A look at the data before a potential is trained on them: units, forces that do not sum to zero, duplicates, outliers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bpjax.training.derivative_checks import bonded, compressed, derivatives
from bpjax.training.label_checks import balance, cells, lone, missing, names, units
from bpjax.training.measures import Measures, measure, same_structure
from bpjax.training.outliers import composition_energies, outliers
from bpjax.training.sanity_report import Finding, Place, SanityReport
from bpjax.training.splits import Split


def sanity(
    splits: Mapping[str, Split],
    elements: tuple[str, ...],
    *,
    isolated: Mapping[str, float] | None = None,
    max_force: float | None = None,
    batch_size: int | None = None,
) -> SanityReport:
    """Looks at structures and labels before training.

    Args:
      splits: by name; the first is the one that is trained on, and what is usual is taken from it.
      elements: all elements in them.
      isolated: energies of isolated atoms in eV, if the offsets are to be near them.
      max_force: largest force in eV/A that is no outlier, beside what is unusual for the set.
      batch_size: structures of one training step, if known.
    """
    splits = {name: split for name, split in splits.items() if len(split)}
    measured = {name: measure(split.frames, elements) for name, split in splits.items()}
    first = next(iter(splits))
    train = measured[first]
    offsets = composition_energies(train, None if not isolated else np.array([isolated[e] for e in elements]))
    findings: list[Finding] = []
    for name, split in splits.items():
        findings += missing(name, split, measured[name]) + names(name, split) + lone(name, split)
        findings += cells(name, split)
        findings += balance(name, split, measured[name])
    of_energies, signs = derivatives(splits)
    findings += units(train, elements, offsets) + of_energies
    for name, split in splits.items():
        of_forces, of_stresses = signs[name]
        findings += bonded(name, split, measured[name], of_forces.positive)
        looked_at = name != first and {path for path, _ in split.sources} <= {path for path, _ in splits[first].sources}
        findings += compressed(name, split, measured[name], None if looked_at else of_stresses)
    findings += _twins(splits, measured)
    named = [
        Place(*split.sources[n], detail=reason)
        for name, split in splits.items()
        for n, reason in outliers(measured[name], train, offsets, max_force).items()
    ]
    if named:
        total = sum(map(len, splits.values()))
        findings.append(
            Finding("outlier", True, f"{len(named)} of {total} structures far from the others", tuple(named))
        )
    findings += _composition(train, elements, bool(isolated))
    if batch_size is not None and len(train) < batch_size:
        message = (
            f"{len(train)} structures to train on are fewer than the batch size of {batch_size}: each step takes all"
        )
        findings.append(Finding("small", False, message))
    summaries = {name: _summary(found, elements, offsets) for name, found in measured.items()}
    return SanityReport(summaries, tuple(sorted(findings, key=lambda f: not f.warning)))


# --------------------------------------------------------------------------------------------- findings


def _twins(splits: Mapping[str, Split], measured: Mapping[str, Measures]) -> list[Finding]:
    """Structures that are there twice: within the splits, across them, and with labels that contradict each other."""
    homes = [name for name, split in splits.items() for _ in range(len(split))]
    sources = [source for split in splits.values() for source in split.sources]
    joined = Measures(
        **{f: np.concatenate([getattr(m, f) for m in measured.values()]) for f in Measures.__annotations__}
    )
    twice, across, conflict = [], [], []
    for group in same_structure(joined):
        if not np.isfinite(joined.bond[group]).all() and joined.atoms[group[0]] > 1:
            continue  # no near pairs, nothing known
        first, home = homes[group[0]], sources[group[0]]
        for n in group[1:]:
            found = Place(*sources[n], detail=f"{homes[n]}, as {first} {home[0]}: frame {home[1]}")
            (twice if homes[n] == first else across).append(found)
        energies = joined.energy[group]
        energies = energies[np.isfinite(energies)]
        if len(energies) and np.ptp(energies) > 1e-3 * joined.atoms[group[0]]:
            detail = f"{np.ptp(energies):.3g} eV apart"
            conflict.append(Place(*home, detail=detail))
    findings = []
    if across:
        message = f"{len(across)} of {len(homes)} structures also in another split, where errors will look too small"
        findings.append(Finding("leakage", True, message, tuple(across)))
    if twice:
        message = f"{len(twice)} of {len(homes)} structures there already (but for order, rotation, reflection)"
        findings.append(Finding("duplicates", False, message, tuple(twice)))
    if conflict:
        message = f"{len(conflict)} of {len(homes)} structures more than once with different energies"
        findings.append(Finding("conflict", True, message, tuple(conflict)))
    return findings


def _composition(found: Measures, elements: tuple[str, ...], isolated: bool) -> list[Finding]:
    """Energies of elements that the compositions do not determine, and elements that are always there in one number."""
    if len(elements) < 2:
        return []
    shares = found.counts / found.atoms[:, None]
    # Of the triangle, as small as there are elements: the rotation of the structures themselves would be (B, B).
    _, singular, V = np.linalg.svd(np.linalg.qr(shares, mode="r"), full_matrices=True)
    singular = np.pad(singular, (0, len(elements) - len(singular)))
    free = V[singular <= 1e-8 * singular[0]]  # as in `fit_offsets`
    loose = np.abs(free).max(axis=0, initial=0.0) > 1e-6
    findings = []
    if loose.any():
        loose_ones = ", ".join(e for e, is_free in zip(elements, loose, strict=True) if is_free)
        nearest = "the isolated atoms" if isolated else "one common energy per atom"
        message = (
            f"the compositions do not determine the energies of {loose_ones} ({len(elements) - len(free)} independent of "
            f"{len(elements)}): of all that fit, those nearest to {nearest} are taken; other compositions are not predicted"
        )
        findings.append(Finding("offsets", False, message))
    for s in np.flatnonzero((np.ptp(found.counts, axis=0) == 0) & ~loose):
        message = f"each structure has {found.counts[0, s]} {elements[s]}: nothing is learned about other numbers of it"
        findings.append(Finding("offsets", False, message))
    return findings


# --------------------------------------------------------------------------------------------- numbers


def _summary(found: Measures, elements: tuple[str, ...], offsets: np.ndarray) -> dict[str, Any]:
    def extreme(values: np.ndarray, function=np.max) -> float | None:
        values = values[np.isfinite(values)]
        return float(function(values)) if len(values) else None

    relative = (found.energy - found.counts @ offsets) / found.atoms
    forced = np.isfinite(found.forces)
    closest = found.closest.min(axis=0)
    S = range(len(elements))
    return {
        "structures": len(found),
        "atoms": int(found.atoms.sum()),
        "smallest": int(found.atoms.min()),
        "largest": int(found.atoms.max()),
        "elements": {elements[s]: int(found.counts[:, s].sum()) for s in S},
        "labels": {
            "energy": int(np.isfinite(found.energy).sum()),
            "forces": int(forced.sum()),
            "stress": int(np.isfinite(found.stress).sum()),
        },
        "energy_per_atom": [extreme(found.energy / found.atoms, np.min), extreme(found.energy / found.atoms)],
        "energy_less_composition": [extreme(relative, np.min), extreme(relative)],
        "force_rms": float(np.sqrt(found.forces[forced].sum() / (3 * found.atoms[forced].sum())))
        if forced.any()
        else None,
        "force_max": extreme(found.largest),
        "net_force_max": extreme(found.net),
        "net_torque_share_max": extreme(found.torque_share),
        "stress_max": extreme(found.stress),
        "closest": {
            f"{elements[s]}-{elements[t]}": float(closest[s, t]) for s in S for t in S[s:] if closest[s, t] < np.inf
        },
    }
