"""What labels say about each other: missing ones, names that nobody uses, forces that do not sum to zero, units and signs.

Energies are compared with the work of forces and stresses, and with the number of atoms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bpjax.io.label_keys import two_energies, unused_labels
from bpjax.training.measures import Measures, total_energy, work
from bpjax.training.outliers import middle_of
from bpjax.training.sanity_report import Finding, Place
from bpjax.training.splits import Split
from bpjax.units import BOHR, GPA, HARTREE, KCAL_MOL, KJ_MOL

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


def missing(name: str, split: Split, found: Measures) -> list[Finding]:
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


def names(name: str, split: Split) -> list[Finding]:
    """Names that look like labels and are not used, and two energies of one structure."""
    findings = []
    for one in unused_labels(split.frames):
        message = f"{name}: {one.sentence(len(split), f'data.keys.{one.key} names it')}"
        findings.append(Finding("labels", one.lacking > 0, message))
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


def balance(name: str, split: Split, found: Measures) -> list[Finding]:
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


def units(found: Measures, elements: tuple[str, ...], offsets: np.ndarray) -> list[Finding]:
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
        if middle_of(residual, 0.0)[1] > 10:
            messages.append(
                f"energies spread by {middle_of(residual, 0.0)[1]:.3g} eV/atom beyond what compositions explain"
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
    return [*(Finding("units", True, text) for text in messages), *_extensive(found, offsets)]


def derivatives(splits: Mapping[str, Split]) -> list[Finding]:
    """Forces and stresses that are not derivatives of the energies, in the files that are trained on, and in each further split.

    Of a file all structures are looked at, in its order: what is found does not depend on which of them are set aside.
    """
    everything = [pair for split in splits.values() for pair in zip(split.sources, split.frames, strict=True)]
    findings, seen = [], set()
    for name, split in splits.items():
        paths = {path for path, _ in split.sources} - seen
        seen |= paths
        own = sorted((pair for pair in everything if pair[0][0] in paths), key=lambda pair: pair[0])
        found = _work([atoms for _, atoms in own])
        first = name == next(iter(splits))
        findings += [one if first else replace(one, message=f"{name}: {one.message}") for one in found]
    return findings


def _work(frames: Sequence) -> list[Finding]:
    found = work(frames)
    if found.pairs < 10:
        return []
    sizes = {len(atoms) for atoms in frames}
    of_an_atom = None if found.forces.fits else work(frames, per_atom=True).forces
    if of_an_atom and of_an_atom.fits and of_an_atom.share > max(_TELLING, found.forces.share - 0.02):
        share = "" if len(sizes) > 1 else f", 1/{sizes.pop()} of the work of the forces"
        text = f"energy differences of near structures are those of one atom{share}: are the energies per atom?"
        return [Finding("units", True, text, certain=found.pairs >= _ENOUGH and of_an_atom.share > 0.85)]
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


def _places(split: Split, chosen: np.ndarray, details: list[str] | None = None) -> tuple[Place, ...]:
    texts = [""] * len(chosen) if details is None else details
    return tuple(Place(*split.sources[n], detail=text) for n, text in zip(chosen.tolist(), texts, strict=True))
