"""A look at the data before a potential is trained on them: units, forces that do not sum to zero, duplicates, outliers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bpjax.elements import fit_offsets
from bpjax.io.label_keys import two_energies, unused_labels
from bpjax.training.measures import Measures, measure, same_structure, total_energy, work
from bpjax.training.sanity_report import Finding, Place, SanityReport
from bpjax.training.splits import Split
from bpjax.units import BOHR, GPA, HARTREE, KCAL_MOL, KJ_MOL

# An outlier is so many spreads away from the middle (more in small sets, whose spread is uncertain), and so many times
# farther than the next structure: a tail without a gap, however long, is part of the set.
_OUTLIER, _GAP = 12.0, 1.5
# Spreads are taken to be at least this: eV/atom and eV/A.
_ENERGY_SPREAD, _FORCE_SPREAD = 5e-3, 0.1
# Independent forces have a net share of about 1; those of careless integration grids reach 0.02.
_NET_SHARE, _NET_FORCE = 0.1, 0.05

_ENERGY_UNITS = {"hartree": 1.0, "kcal/mol": HARTREE / KCAL_MOL, "kJ/mol": HARTREE / KJ_MOL}
_RATIOS = {
    "hartree and eV": HARTREE,
    "eV and kcal/mol": 1 / KCAL_MOL,
    "eV and kJ/mol": 1 / KJ_MOL,
    "hartree and kcal/mol": HARTREE / KCAL_MOL,
    "A and bohr": 1 / BOHR,
    "hartree/bohr and eV/A": HARTREE / BOHR,
}
# Share of the energy differences that a work must explain, and pairs of structures, before anything is said of it.
_TELLING, _ENOUGH = 0.75, 20
_STRESSES = {"eV/A^3 and GPa": 1 / GPA, "eV/A^3 and kbar": 10 / GPA, "hartree/bohr^3 and eV/A^3": HARTREE / BOHR**3}


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
        findings += _missing(name, split, measured[name]) + _names(name, split) + _balance(name, split, measured[name])
    findings += _units(splits[first], train, elements, offsets)
    findings += _twins(splits, measured)
    named = [
        _place(split.sources[n], reason)
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


# --------------------------------------------------------------------------------------------- outliers


def composition_energies(measures: Measures, isolated: np.ndarray | None = None) -> np.ndarray:
    """Energy of an atom of each element in eV, (S,), as `fit_offsets`, but not bent by a few absurd energies."""
    known = np.isfinite(measures.energy)
    if not known.any():
        return np.zeros(measures.counts.shape[1])
    counts, energies = measures.counts[known], measures.energy[known]
    kept = np.ones(len(energies), bool)
    offsets = fit_offsets(counts, energies, isolated)
    for _ in range(5):
        residual = (energies - counts @ offsets) / counts.sum(axis=1)
        middle, limit = _limit(residual, _ENERGY_SPREAD, both=True)
        now = np.abs(residual - middle) <= limit
        if (now == kept).all():
            break
        kept = now
        offsets = fit_offsets(counts[kept], energies[kept], isolated)
    return offsets


def outliers(
    measures: Measures, usual: Measures, offsets: np.ndarray, max_force: float | None = None
) -> dict[int, str]:
    """Structures with an energy or a force far from what is usual, and why.

    The energy per atom, less that of the composition, is compared with the median of the usual ones, and so is the largest
    force. What is far is told by the spread of the inner part, which outliers do not change, and by a gap.

    Args:
      measures: the structures.
      usual: those that say what is usual.
      offsets: energy of an atom of each element in eV, (S,).
      max_force: largest force in eV/A that is allowed in any case; None for no such limit.
    """
    found: dict[int, list[str]] = {}
    residual = (measures.energy - measures.counts @ offsets) / measures.atoms
    middle, limit = _limit((usual.energy - usual.counts @ offsets) / usual.atoms, _ENERGY_SPREAD, both=True)
    for n in np.flatnonzero(np.abs(residual - middle) > limit):
        found.setdefault(int(n), []).append(f"energy {residual[n] - middle:+.3g} eV/atom from the middle of the set")
    middle, limit = _limit(usual.largest, _FORCE_SPREAD, both=False)
    for n in np.flatnonzero(measures.largest - middle > limit):
        found.setdefault(int(n), []).append(f"a force of {measures.largest[n]:.3g} eV/A, where {middle:.2g} is usual")
    if max_force is not None:
        for n in np.flatnonzero(measures.largest > max_force):
            text = f"a force of {measures.largest[n]:.3g} eV/A, above max_force of {max_force:g}"
            found[int(n)] = [r for r in found.get(int(n), []) if "usual" not in r] + [text]
    return {n: ", ".join(reasons) for n, reasons in sorted(found.items())}


def _limit(values: np.ndarray, least: float, both: bool) -> tuple[float, float]:
    """Median, and the distance from it (to `both` sides or above) beyond which a structure is far from the others."""
    middle, spread = _middle(values, least)
    deviation = values[np.isfinite(values)] - middle
    limit = _OUTLIER * (1 + 10 / max(len(deviation), 1)) * spread
    for distance in np.sort(np.abs(deviation) if both else deviation):
        if distance > limit:
            break
        limit = max(limit, _GAP * float(distance))
    return middle, limit


def _middle(values: np.ndarray, least: float) -> tuple[float, float]:
    """Median and spread (of a normal distribution: its width) of the values that are known."""
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, np.inf
    middle = float(np.median(values))
    deviation = np.abs(values - middle)
    # The larger of two estimates: sets of several kinds of structures have a narrow core and broad shoulders. The quantile
    # is a value of the set below its largest, so that one outlier among ten structures does not hide itself.
    core = 1.4826 * float(np.median(deviation))
    shoulders = float(np.quantile(deviation, 0.8, method="lower")) / 1.2816
    return middle, max(core, shoulders, least)


# --------------------------------------------------------------------------------------------- findings


def _place(source: tuple[str, int], detail: str) -> Place:
    return Place(source[0], source[1], detail)


def _places(split: Split, chosen: np.ndarray, details: list[str] | None = None) -> tuple[Place, ...]:
    texts = [""] * len(chosen) if details is None else details
    return tuple(_place(split.sources[n], text) for n, text in zip(chosen.tolist(), texts, strict=True))


def _missing(name: str, split: Split, found: Measures) -> list[Finding]:
    """Labels that some structures have and others lack."""
    findings = []
    for label, values in (("energy", found.energy), ("forces", found.largest), ("stress", found.stress)):
        lacking = ~np.isfinite(values)
        if label == "stress":
            lacking &= np.array([bool(a.pbc.all()) for a in split.frames])
        if lacking.any() and (label != "stress" or np.isfinite(values).any()):
            message = f"{name}: {int(lacking.sum())} of {len(found)} structures without {label}"
            where = () if lacking.all() else _places(split, np.flatnonzero(lacking))
            findings.append(Finding("labels", False, message, where))
    return findings


def _names(name: str, split: Split) -> list[Finding]:
    """Names that look like labels and are not used, and two energies of one structure."""
    findings = []
    for found, (label, count, lacking) in unused_labels(split.frames).items():
        instead = f", and {lacking} of these have no {label.replace('virial', 'stress')}" if lacking else ""
        message = (
            f"{name}: {found!r} in {count} of {len(split)} structures is not used{instead}; data.keys.{label} names it"
        )
        findings.append(Finding("labels", lacking > 0, message))
    pairs = [(n, both) for n, a in enumerate(split.frames) if (both := two_energies(a)) is not None]
    if pairs:
        apart = np.array([(energy - free) / len(split.frames[n]) for n, (energy, free) in pairs])
        if np.ptp(apart) > 1e-3:
            message = (
                f"{name}: energy and free_energy differ by {apart.min():.3g} to {apart.max():.3g} eV/atom; energy is trained on, "
                'forces of smeared electrons belong to the other: data.keys.energy = "free_energy" takes that'
            )
            findings.append(Finding("labels", True, message, _places(split, np.array([n for n, _ in pairs]))))
        elif np.abs(apart).max() > 1e-3:
            message = f"{name}: energy and free_energy differ by {apart.mean():.3g} eV/atom; energy is trained on"
            findings.append(Finding("labels", False, message))
    return findings


def _balance(name: str, split: Split, found: Measures) -> list[Finding]:
    """Forces and torques that do not sum to zero, as they do unless something outside pulls."""
    findings = []
    bad = np.flatnonzero((found.net_share > _NET_SHARE) & (found.net > _NET_FORCE))
    if len(bad):
        message = f"{name}: forces that do not sum to zero in {len(bad)} of {len(found)} structures (fixed atoms, wrong order?)"
        details = [f"{found.net[n]:.3g} eV/A" for n in bad]
        findings.append(Finding("net_force", True, message, _places(split, bad, details)))
    twisted = np.flatnonzero((found.torque_share > _NET_SHARE) & (found.largest > _NET_FORCE))
    twisted = np.setdiff1d(twisted, bad)
    if len(twisted):
        message = f"{name}: forces that turn {len(twisted)} of {len(found)} molecules (turned since, wrong order?)"
        findings.append(Finding("net_torque", True, message, _places(split, twisted)))
    return findings


def _units(split: Split, found: Measures, elements: tuple[str, ...], offsets: np.ndarray) -> list[Finding]:
    """Magnitudes that energies in eV, lengths in A and forces in eV/A do not have."""
    messages = []
    bond = found.bond[np.isfinite(found.bond)]
    if len(bond) and not set(elements) <= {"He", "Ne", "Ar", "Kr", "Xe", "Rn"}:
        low, middle, high = np.quantile(bond, [0.1, 0.5, 0.9])
        text = f"nearest atoms are {middle:.2f} times as far apart as the sum of their covalent radii"
        if middle > 1.4 and low > 1.3:
            messages.append(f"{text}: are lengths in bohr?")
        if middle < 0.6 and high < 0.65:
            messages.append(f"{text}: were lengths in A converted from bohr?")
    known = np.isfinite(found.energy)
    if known.any():
        ratio = float(np.median(found.energy[known] / (found.counts[known] @ total_energy(elements))))
        for unit, factor in _ENERGY_UNITS.items():
            if abs(ratio / factor - 1) < 0.03:
                messages.append(f"energies are near those of all electrons in {unit}, not in eV")
        residual = (found.energy - found.counts @ offsets)[known] / found.atoms[known]
        if _middle(residual, 0.0)[1] > 10:
            messages.append(
                f"energies spread by {_middle(residual, 0.0)[1]:.3g} eV/atom beyond what compositions explain"
            )
    forced = np.isfinite(found.forces)
    if forced.any():
        rms = float(np.sqrt(found.forces[forced].sum() / (3 * found.atoms[forced].sum())))
        if rms == 0:
            messages.append("all forces are zero")
        elif not 1e-3 < rms < 50:
            messages.append(f"forces of {rms:.3g} eV/A (root mean square) are unusual")
    stress = found.stress[np.isfinite(found.stress)]
    if len(stress) and np.median(stress) > 1:
        messages.append(f"stresses of {np.median(stress):.3g} eV/A^3 are unusual: are they in GPa or kbar?")
    return [*(Finding("units", True, text) for text in messages), *_work(split), *_extensive(found, offsets)]


def _work(split: Split) -> list[Finding]:
    """Forces and stresses that are not derivatives of the energies, where structures are near enough to each other to tell."""
    found = work(split.frames)
    if found.pairs < 10:
        return []
    sizes = {len(atoms) for atoms in split.frames}
    of_an_atom = None if found.forces.fits else work(split.frames, per_atom=True).forces
    if of_an_atom and of_an_atom.fits and of_an_atom.share > max(_TELLING, found.forces.share - 0.02):
        share = "" if len(sizes) > 1 else f", 1/{sizes.pop()} of the work of the forces"
        text = f"energy differences of near structures are those of one atom{share}: are the energies per atom?"
        return [Finding("units", True, text, certain=found.pairs >= _ENOUGH and of_an_atom.share > 0.95)]
    findings = []
    for what, slope, ratios, negative in (
        ("forces", found.forces, _RATIOS, "are the forces gradients?"),
        ("stresses", found.stress, _STRESSES, "have the stresses the other sign (a pressure, a virial)?"),
    ):
        far = slope.factor < 0 or not 1 / 3 < slope.factor < 3
        if slope.fits or slope.share < (_TELLING if far else 0.9):
            continue
        # Between the two ways to draw a line through points of which both numbers have errors.
        factor = slope.factor * slope.share**0.5
        text = f"energy differences of near structures are {factor:.3g} times the work of the {what}"
        text += f": {negative}" if factor < 0 else ""
        # A factor of two may be noise where the two do not go together well.
        named = [name for name, ratio in ratios.items() if slope.share > 0.9 or not 1 / 3 < ratio < 3]
        near = min(named, key=lambda name: _apart(factor, ratios[name]))
        if _apart(factor, ratios[near]) < 1.15 + 1.5 * (1 - slope.share):
            text += f" (a ratio of {near})"
        certain = (slope.factor < 0 or slope.factor > 3 or (far and slope.share > 0.85)) and (
            found.pairs >= _ENOUGH and abs(slope.factor - 1) > 10 * slope.error
        )
        findings.append(Finding("units", True, text, certain=certain))
    return findings


def _apart(factor: float, ratio: float) -> float:
    """By how many times a factor is off a ratio of two units, whichever way it is."""
    way = abs(np.log(abs(factor))) / abs(np.log(ratio)) if factor else np.inf
    return float(np.exp(abs(np.log(ratio)) * abs(way - 1)))


def _extensive(found: Measures, offsets: np.ndarray) -> list[Finding]:
    """Energies that do not grow with the number of atoms."""
    known = np.isfinite(found.energy)
    atoms = found.atoms[known]
    if known.sum() < 10 or atoms.max() < 1.5 * atoms.min():
        return []
    shares, energy = found.counts[known] / atoms[:, None], found.energy[known]
    growing = energy - found.counts[known] @ offsets
    constant = energy - shares @ np.linalg.lstsq(shares, energy, rcond=1e-8)[0]
    # By the middle: a few absurd energies are outliers, whatever the others grow with.
    if float(np.median(np.abs(constant))) > 0.2 * float(np.median(np.abs(growing))):
        return []
    text = f"energies do not grow with the number of atoms ({atoms.min()} to {atoms.max()}): are they per atom?"
    return [Finding("units", True, text)]


def _twins(splits: Mapping[str, Split], measured: Mapping[str, Measures]) -> list[Finding]:
    """Structures that are there twice: within the splits, across them, and with labels that contradict each other."""
    names = [name for name, split in splits.items() for _ in range(len(split))]
    sources = [source for split in splits.values() for source in split.sources]
    joined = Measures(
        **{f: np.concatenate([getattr(m, f) for m in measured.values()]) for f in Measures.__annotations__}
    )
    twice, across, conflict = [], [], []
    for group in same_structure(joined):
        if not np.isfinite(joined.bond[group]).all() and joined.atoms[group[0]] > 1:
            continue  # no near pairs, nothing known
        first, home = names[group[0]], sources[group[0]]
        for n in group[1:]:
            found = _place(sources[n], f"{names[n]}, as {first} {home[0]}: frame {home[1]}")
            (twice if names[n] == first else across).append(found)
        energies = joined.energy[group]
        energies = energies[np.isfinite(energies)]
        if len(energies) and np.ptp(energies) > 1e-3 * joined.atoms[group[0]]:
            detail = f"{np.ptp(energies):.3g} eV apart"
            conflict.append(_place(home, detail))
    findings = []
    if across:
        message = f"{len(across)} of {len(names)} structures also in another split, where errors will look too small"
        findings.append(Finding("leakage", True, message, tuple(across)))
    if twice:
        message = f"{len(twice)} of {len(names)} structures there already (but for order, rotation, reflection)"
        findings.append(Finding("duplicates", False, message, tuple(twice)))
    if conflict:
        message = f"{len(conflict)} of {len(names)} structures more than once with different energies"
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
        names = ", ".join(e for e, is_free in zip(elements, loose, strict=True) if is_free)
        nearest = "the isolated atoms" if isolated else "one common energy per atom"
        message = (
            f"the compositions do not determine the energies of {names} ({len(elements) - len(free)} independent of "
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
