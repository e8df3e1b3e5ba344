"""Whether forces and stresses are derivatives of the energies: their sign, their units, and whose they are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bpjax.elements import NOBLE_GASES, atomic_numbers
from bpjax.io.labels import group_of, labels
from bpjax.training.measures import Measures, odd_shear, shear_share
from bpjax.training.sanity_report import Finding, Place, places
from bpjax.training.splits import Split
from bpjax.training.work import Votes, work
from bpjax.units import BOHR, GPA, HARTREE, KCAL_MOL, KJ_MOL

# Energies over work, where one of them is in another unit.
_ENERGIES = {"energies in hartree": 1 / HARTREE, "energies in kcal/mol": 1 / KCAL_MOL, "energies in kJ/mol": 1 / KJ_MOL}
_FORCES = {
    **_ENERGIES,
    "forces in hartree/bohr": HARTREE / BOHR,
    "forces in rydberg/bohr": HARTREE / 2 / BOHR,
    "forces in hartree/A": HARTREE,
    "forces in kcal/mol/A": KCAL_MOL,
    "forces in kJ/mol/A": KJ_MOL,
    "forces per bohr": 1 / BOHR,
}
_STRESSES = {
    **_ENERGIES,
    "stresses in GPa": GPA,
    "stresses in kbar": GPA / 10,
    "stresses in hartree/bohr^3": HARTREE / BOHR**3,
}
# Correlation of energy differences and work, and pairs of structures, before anything is said of a sign; of 600 random sound sets
# none has a positive factor beyond 3 with 0.58 or more.
_SHARE, _ENOUGH = 0.75, 20
_SHARE_OF_UNITS = 0.62
# Correlation of length and force of bonds from which on forces have the other sign, and stiffness of C-H, N-H and O-H in
# eV/A^2: 4.7 to 7.8 mdyn/A (Wilson, Decius, Cross, Molecular Vibrations, 1955), 26 to 45 in sets of warm molecules and liquids.
_PULL, _STIFF = 0.12, (8.0, 150.0)
# Stiffness of any bonds: 0.45 to 40 in sets and random alloys.
_SOFT = 0.1

# Bulk moduli in GPa: that of diamond is 443, those of liquids 1 to 3.
_MODULUS = 0.5, 1000.0


def bonded(name: str, split: Split, found: Measures, confirmed: bool = False) -> list[Finding]:
    """Forces that pull short bonds together, or hold hydrogen too weakly or too strongly; no energies are needed to see it.

    Where bonds are shorter than others of their kind in the same structure, forces push their atoms apart: the correlation of
    length and force is -0.16 to -0.93 in all sets that were looked at, of metals, oxides, liquids and molecules. Where energies
    say that the sign is right (`confirmed`), a whole set that looks otherwise is odd, and no mistake beyond doubt.
    """
    own, shares = _shares(found)
    wrong = _pulling(name, split, found, confirmed) or _pulling_alone(name, split, found, own, shares, confirmed)
    if wrong:
        return wrong
    findings = _unlike(name, split, found, own & (shares < -0.3))
    pairs, dd, ff, df = found.bonds[:, :4].sum(axis=0)
    # Alkali metals beyond sodium and noble gases are softer than all others.
    if pairs >= 200 and _share(dd, ff, df) < -0.2 and -df / dd < _SOFT and not _soft(split.frames):
        text = f"{name}: bonds have a stiffness of {-df / dd:.2g} eV/A^2 by the forces, where 0.5 to 40 are usual"
        findings.append(Finding("units", True, f"{text}: are forces in another unit (hartree/bohr)?"))
    of_hydrogen, pull = found.bonds[:, 4:].sum(axis=0)
    stiffness = -pull / max(of_hydrogen, 1e-300)
    if of_hydrogen > 0.02 and not _STIFF[0] < stiffness < _STIFF[1]:
        text = f"{name}: bonds to hydrogen have a stiffness of {stiffness:.3g} eV/A^2 by the forces, where 30 to 50 are usual"
        findings.append(Finding("units", True, f"{text}: are units, order of atoms and axes right?"))
    return findings


def _pulling(name: str, split: Split, found: Measures, confirmed: bool) -> list[Finding]:
    """All structures, those of some files, or those of some kinds."""
    findings = []
    for word, (parts, part) in _parts(split).items():
        pairs, dd, ff, df = (np.bincount(part, weights=x) for x in found.bonds[:, :4].T)
        shares = _share(dd, ff, df)
        for k in np.flatnonzero((pairs >= 200) & (ff > 0.05**2 * pairs) & (shares > _PULL)):
            text = f"{name}: forces{word}{parts[k]} pull short bonds together and long ones apart: are the forces gradients?"
            certain = bool(shares[k] > 0.2) and not (confirmed and word == "")
            findings.append(Finding("units", True, text, certain=certain))
        if findings:
            break
    return findings


def _soft(frames: Sequence) -> bool:
    """Whether there is nothing but noble gases and alkali metals."""
    soft = atomic_numbers((*NOBLE_GASES, "K", "Rb", "Cs", "Fr")).tolist()
    return set().union(*(a.numbers.tolist() for a in frames)) <= set(soft)


def _parts(split: Split) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Ways to divide a split: names of the parts, and the part of each structure; by the word that goes before the name."""
    ways = {
        "": [""] * len(split),
        " in ": [path for path, _ in split.sources],
        " of kind ": map(group_of, split.frames),
    }
    return {word: np.unique(np.array(list(of_each)), return_inverse=True) for word, of_each in ways.items()}


def _shares(found: Measures) -> tuple[np.ndarray, np.ndarray]:
    """Structures whose bonds tell, and the correlation of each, 0 where they do not."""
    pairs, dd, ff, df = found.bonds[:, :4].T
    own = (pairs >= 5) & (dd > 1e-4 * pairs) & (ff > 1e-4 * pairs)
    return own, np.where(own, _share(dd, ff, df), 0.0)


def _pulling_alone(
    name: str, split: Split, found: Measures, own: np.ndarray, shares: np.ndarray, confirmed: bool
) -> list[Finding]:
    """Some of the structures, one by one, where bonds are stiff enough to tell."""
    usual = float(np.median(np.abs(shares[own]))) if own.any() else 0.0
    wrong = np.flatnonzero(shares > 0.25)
    if usual < 0.4 or len(wrong) <= max(3 if usual > 0.6 else 7, 0.05 * own.sum()):
        return []
    text = f"{name}: forces of {len(wrong)} of {len(split)} structures pull short bonds together, unlike the others"
    text += ": are the forces gradients, or are atoms in another order?"
    # A few may be so by chance, and crystals that are stretched far do so: those with long bonds tell little.
    plain = wrong[found.bond[wrong] <= np.quantile(found.bond[own], 0.7)]
    certain = bool(len(plain) > max(7, 0.1 * own.sum())) and not confirmed
    return [Finding("units", True, text, places(split, wrong), certain=certain)]


def _unlike(name: str, split: Split, found: Measures, known: np.ndarray) -> list[Finding]:
    """Some structures whose forces hold bonds by a stiffness far from that of the others; of those where it is `known`."""
    if not known.any():
        return []
    ratio = np.where(known, -found.bonds[:, 3] / np.maximum(found.bonds[:, 1], 1e-300), np.nan)
    ratio /= np.nanmedian(ratio)
    findings = []
    for other, what in ((ratio < 1 / 15, "far weaker"), (ratio > 15, "far stronger")):
        if other.sum() > max(3, 0.05 * known.sum()):
            text = f"{name}: forces of {int(other.sum())} of {len(split)} structures hold bonds {what} than the others"
            text += f" ({np.median(ratio[other]):.3g}): are they in another unit?"
            findings.append(Finding("units", True, text, places(split, np.flatnonzero(other))))
    return findings


def compressed(name: str, split: Split, found: Measures, votes: Votes | None = None) -> list[Finding]:
    """Stresses that fall where a structure is stretched, or by a bulk modulus that no solid has.

    Volumes and mean stresses are compared among structures of one kind and composition; of kinds with few structures, less
    what the composition explains. In all sets that were looked at they go together by 0.55 to 0.96. `votes` are what energies say
    of the sign: where they confirm it, a whole set that looks otherwise is odd, and no mistake beyond doubt. Where neither says
    anything, that is said, unless `votes` are None.
    """
    known = np.flatnonzero(np.isfinite(found.pressure) & np.isfinite(found.volume))
    text = f"{name}: nothing says whether the stresses have the right sign: volumes and strains are too much alike, or too few"
    blind = [Finding("units", False, text)] if votes is not None and not votes.told and len(known) else []
    if len(known) < 20:
        return blind
    kinds = np.array([f"{group_of(split.frames[n])} {found.counts[n]}" for n in known])
    _, kind, count = np.unique(kinds, return_inverse=True, return_counts=True)
    pressure, volume = (np.array(x[known]) for x in (found.pressure, found.volume))
    few = count[kind] < 3
    shares = found.counts[known] / found.atoms[known, None]
    for x in (pressure, volume):
        mean = np.bincount(kind, weights=x) / count
        rest = x[few] - shares[few] @ np.linalg.lstsq(shares[few], x[few], rcond=1e-8)[0] if few.any() else 0.0
        x -= mean[kind]
        x[few] = rest
    volume /= found.volume[known]
    findings, told = [], False
    for word, (parts, part) in _parts(split).items():
        vv, pp, vp = (np.bincount(part[known], weights=x) for x in (volume**2, pressure**2, volume * pressure))
        number, shares = np.bincount(part[known]), _share(vv, pp, vp)
        # Of a few structures more must go the same way.
        enough = (number >= 20) & (np.abs(shares) >= (0.3 if word == "" else 0.5))
        for k in np.flatnonzero(enough & (vv > 2e-3**2 * number)):
            told |= word == ""
            modulus, whole = vp[k] / vv[k] / GPA, word == ""
            if modulus < 0:
                text = f"{name}: stresses{word}{parts[k]} fall where structures are stretched"
                text += ": have they the other sign (a pressure, a virial)?"
                certain = bool(shares[k] < -0.5) and not (whole and votes is not None and votes.positive)
            elif not _MODULUS[0] < modulus < _MODULUS[1]:
                text = f"{name}: volumes and stresses{word}{parts[k]} make a bulk modulus of {modulus:.3g} GPa"
                text += ": are stresses in another unit (GPa, kbar)?"
                certain = bool(modulus > 2 * _MODULUS[1])
            else:
                continue
            findings.append(Finding("units", True, text, certain=certain))
        if findings:
            break
    return findings or ([] if told else blind)


def _share(dd, ff, df):
    """Correlation, from sums of squares and products."""
    return df / np.sqrt(np.maximum(dd * ff, 1e-300))


def derivatives(splits: Mapping[str, Split]) -> tuple[list[Finding], dict[str, tuple[Votes, Votes]]]:
    """Forces and stresses that are not derivatives of the energies, in the files that are trained on, and in each further split.

    Of a file all structures are looked at, in its order: what is found does not depend on which of them are set aside.

    Returns: the findings; and by split, what pairs of structures say of the sign of its forces, and of its stresses.
    """
    everything = [pair for split in splits.values() for pair in zip(split.sources, split.frames, strict=True)]
    findings, seen, known = [], set(), {}
    for name, split in splits.items():
        paths = {path for path, _ in split.sources} - seen
        seen |= paths
        own = sorted((pair for pair in everything if pair[0][0] in paths), key=lambda pair: pair[0])
        found, votes = _work([atoms for _, atoms in own], [source for source, _ in own])
        first = name == next(iter(splits))
        findings += [one if first else replace(one, message=f"{name}: {one.message}") for one in found]
        known[name] = votes
        if not paths:  # set aside of files that have been looked at
            known[name] = known[next(iter(splits))]
    return findings, known


def _work(frames: Sequence, sources: Sequence[tuple[str, int]]) -> tuple[list[Finding], tuple[Votes, Votes]]:
    found = work(frames)
    if found.pairs < 10:
        return [], found.votes
    sizes = {len(atoms) for atoms in frames}
    of_an_atom = None if found.forces.fits else work(frames, per_atom=True).forces
    if (
        of_an_atom
        and of_an_atom.fits
        and of_an_atom.share > max(_SHARE_OF_UNITS, found.forces.share - 0.02)
        and _times(of_an_atom.middle) < min(_apart(found.forces.middle, ratio) for ratio in _FORCES.values())
    ):
        share = "" if len(sizes) > 1 else f", 1/{sizes.pop()} of the work of the forces"
        text = f"energy differences of near structures are those of one atom{share}: are the energies per atom?"
        return [Finding("units", True, text, certain=found.pairs >= _ENOUGH and of_an_atom.share > 0.8)], found.votes
    findings = []
    for what, slope, units, votes, negative in (
        ("forces", found.forces, _FORCES, found.votes[0], "are the forces gradients?"),
        (
            "stresses",
            found.stress,
            _STRESSES,
            found.votes[1],
            "have the stresses the other sign (a pressure, a virial)?",
        ),
    ):
        if votes.mixed:
            text = (
                f"{what} of both signs: {votes.right} pairs of near structures have one, {len(votes.wrong)} the other"
            )
            named = sorted({n for pair in votes.wrong for n in pair})
            places = tuple(Place(*sources[n], detail=group_of(frames[n])) for n in named)
            findings.append(Finding("units", True, text, places, certain=votes.clear and found.pairs >= _ENOUGH))
            continue
        if votes.negative:
            text = f"energy differences of near structures have the other sign than the work of the {what}"
            text += f" in {len(votes.wrong)} of {votes.right + len(votes.wrong)} pairs: {negative}"
            findings.append(Finding("units", True, text, certain=found.pairs >= _ENOUGH))
            continue
        far = slope.factor < 0 or not 1 / 3 < slope.factor < 3
        least = _SHARE if slope.factor < 0 else _SHARE_OF_UNITS if far else 0.9
        if slope.fits or slope.share < least:
            continue
        factor = slope.middle
        text = f"energy differences of near structures are {factor:.3g} times the work of the {what}"
        text += f": {negative}" if factor < 0 else ""
        # A factor of two may be noise where the two do not go together well.
        wide = 1.15 + 1.5 * (1 - slope.share)
        off = {name: _apart(factor, unit) for name, unit in units.items() if slope.share > 0.9 or not 1 / 3 < unit < 3}
        likely = sorted((name for name in off if off[name] < wide), key=lambda name: off[name])
        text += f" (as with {' or '.join(likely)})" if likely else ""
        odd = bool(likely) and what == "stresses" and odd_shear(np.array([shear_share(a, labels(a)) for a in frames]))
        certain = (
            slope.factor < 0
            or slope.factor > (3 if slope.share > _SHARE else 8)
            or (far and slope.share > 0.85)
            or bool(odd)
        ) and (found.pairs >= _ENOUGH and abs(slope.factor - 1) > 10 * slope.error)
        findings.append(Finding("units", True, text, certain=certain))
    if not findings and found.pairs >= _ENOUGH and found.misfit > 1:
        text = "energy differences of near structures are not the work of forces and stresses"
        text += ": are these of several kinds or of another calculation, or are atoms or axes in another order?"
        findings.append(Finding("units", True, text))
    return findings, found.votes


def _apart(factor: float, ratio: float) -> float:
    """By how many times a factor, of whatever sign, is off a ratio."""
    return _times(factor / ratio) if factor else float("inf")


def _times(factor: float) -> float:
    """By how many times a factor is off 1, whichever way and sign."""
    return float(np.exp(abs(np.log(abs(factor)))))
