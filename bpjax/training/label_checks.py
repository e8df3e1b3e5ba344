"""What labels say about each other: missing ones, names that nobody uses, forces that do not sum to zero, units.

What energies say of forces and stresses is in `derivative_checks`.
"""

import numpy as np

from bpjax.elements import NOBLE_GASES, covalent_radii
from bpjax.io.label_keys import free_energy_alone, two_energies, unused_labels
from bpjax.io.labels import is_isolated_atom, labels, nearest_image
from bpjax.training.measures import Measures, odd_shear, total_energy
from bpjax.training.outliers import middle_of
from bpjax.training.sanity_report import Finding, places
from bpjax.training.splits import Split
from bpjax.units import HARTREE, KCAL_MOL, KJ_MOL

# Independent forces have a net share of about 1; those of careless integration grids reach 0.02.
_NET_SHARE, _NET_FORCE = 0.1, 0.05

_ENERGY_UNITS = {"hartree": 1.0, "kcal/mol": HARTREE / KCAL_MOL, "kJ/mol": HARTREE / KJ_MOL}
# Distance to its images over the sum of covalent radii, beyond which a single atom is hardly a crystal.
_WIDE = 3.0


def missing(name: str, split: Split, found: Measures) -> list[Finding]:
    """Labels that some structures have and others lack."""
    findings = []
    for label, values in (("energy", found.energy), ("forces", found.largest), ("stress", found.stress)):
        lacking = ~np.isfinite(values)
        if label == "stress":
            lacking &= np.array([bool(a.pbc.all()) for a in split.frames])
        if lacking.any() and (label != "stress" or np.isfinite(values).any()):
            message = f"{name}: {int(lacking.sum())} of {len(found)} structures without {label}"
            where = () if lacking.all() else places(split, np.flatnonzero(lacking))
            findings.append(Finding("labels", False, message, where))
    return findings


def names(name: str, split: Split) -> list[Finding]:
    """Names that look like labels and are not used, and two energies of one structure."""
    findings = []
    for one in unused_labels(split.frames):
        message = f"{name}: {one.sentence(len(split), f'data.keys.{one.key} names it')}"
        findings.append(Finding("labels", one.lacking > 0, message))
    alone = [n for n, a in enumerate(split.frames) if free_energy_alone(a)]
    if alone:
        mixed = len(alone) < sum(labels(a).energy is not None for a in split.frames)
        rest = ", where the others have energy: they are mixed" if mixed else ", which is trained on"
        message = f"{name}: {len(alone)} of {len(split)} structures have a free_energy alone{rest}"
        findings.append(Finding("labels", mixed, message, places(split, np.array(alone)) if mixed else ()))
    pairs = [(n, both) for n, a in enumerate(split.frames) if (both := two_energies(a)) is not None]
    if pairs:
        apart = np.array([(energy - free) / len(split.frames[n]) for n, (energy, free) in pairs])
        if np.ptp(apart) > 1e-3:
            message = (
                f"{name}: energy and free_energy differ by {apart.min():.3g} to {apart.max():.3g} eV/atom; energy is trained on, "
                'forces of smeared electrons belong to the other: data.keys.energy = "free_energy" takes that'
            )
            findings.append(Finding("labels", True, message, places(split, np.array([n for n, _ in pairs]))))
        elif np.abs(apart).max() > 1e-3:
            message = f"{name}: energy and free_energy differ by {apart.mean():.3g} eV/atom; energy is trained on"
            findings.append(Finding("labels", False, message))
    return findings


def lone(name: str, split: Split) -> list[Finding]:
    """Single atoms in boxes that are wide for a crystal, and not wide enough to be taken for isolated ones."""
    wide = {}
    for n, atoms in enumerate(split.frames):
        if len(atoms) == 1 and not is_isolated_atom(atoms):
            distance = nearest_image(atoms)
            if distance > _WIDE * 2 * float(covalent_radii((atoms.get_chemical_symbols()[0],))[0]):
                wide[n] = f"{distance:.3g} A from its images"
    if not wide:
        return []
    message = f"{name}: {len(wide)} single atoms are trained on as crystals; config_type=isolated_atom makes them isolated atoms"
    return [Finding("labels", True, message, places(split, np.array(list(wide)), list(wide.values())))]


def cells(name: str, split: Split) -> list[Finding]:
    """Structures without a cell among others that have one."""
    bare = np.array([not atoms.pbc.any() for atoms in split.frames])
    if bare.all() or not bare.any():
        return []
    message = f"{name}: {int(bare.sum())} of {len(split)} structures have no cell"
    return [Finding("labels", False, message, places(split, np.flatnonzero(bare)))]


def balance(name: str, split: Split, found: Measures) -> list[Finding]:
    """Forces and torques that do not sum to zero, as they do unless something outside pulls."""
    findings = []
    bad = np.flatnonzero((found.net_share > _NET_SHARE) & (found.net > _NET_FORCE))
    if len(bad):
        message = f"{name}: forces that do not sum to zero in {len(bad)} of {len(found)} structures (fixed atoms, wrong order?)"
        details = [f"{found.net[n]:.3g} eV/A" for n in bad]
        findings.append(Finding("net_force", True, message, places(split, bad, details)))
    twisted = np.flatnonzero((found.torque_share > _NET_SHARE) & (found.largest > _NET_FORCE))
    twisted = np.setdiff1d(twisted, bad)
    if len(twisted):
        message = f"{name}: forces that turn {len(twisted)} of {len(found)} molecules (turned since, wrong order?)"
        findings.append(Finding("net_torque", True, message, places(split, twisted)))
    return findings


def units(found: Measures, elements: tuple[str, ...], offsets: np.ndarray) -> list[Finding]:
    """Magnitudes that energies in eV, lengths in A and forces in eV/A do not have."""
    messages = []
    bond = found.bond[np.isfinite(found.bond)]
    if len(bond) and not set(elements) <= set(NOBLE_GASES):
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
        messages += _two_kinds(residual)
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
    elif (share := odd_shear(found.shear_share)) is not None:
        unit = "GPa or kbar" if share > 1 else "hartree/bohr^3"
        messages.append(f"shear stresses are {share:.3g} times what forces of this size make: are they in {unit}?")
    elif np.nanmax(found.stress, initial=0.0) > 5:
        far = int(np.sum(found.stress > 5))
        messages.append(f"{far} of {len(found)} structures have a stress above 5 eV/A^3 (800 GPa): in GPa or kbar?")
    return [*(Finding("units", True, text) for text in messages), *_extensive(found, offsets)]


def _two_kinds(residual: np.ndarray) -> list[str]:
    """What to say where energies per atom, less those of the composition, are in two heaps far from each other."""
    values = np.sort(residual)
    aside = max(1, len(values) // 10)
    if len(values) < 20:
        return []
    gaps = np.diff(values)[aside - 1 : len(values) - aside]
    n = aside + int(np.argmax(gaps))
    gap, spread = float(values[n] - values[n - 1]), max(float(np.std(values[:n])), float(np.std(values[n:])))
    if gap < 0.3 or gap < 10 * spread:
        return []
    return [
        f"energies are of two kinds, {gap:.3g} eV/atom apart ({n} and {len(values) - n}): two units, references, calculations?"
    ]


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
    share = float(np.median(np.abs(constant))) / max(float(np.median(np.abs(growing))), 1e-300)
    if share > 0.2:
        return []
    certain = bool(share < 0.1 and len(atoms) >= 20 and atoms.max() >= 2 * atoms.min())
    text = f"energies do not grow with the number of atoms ({atoms.min()} to {atoms.max()}): are they per atom?"
    return [Finding("units", True, text, certain=certain)]
