"""Potentials of the three singlets of methaniminium: with odd factors, without, and adiabatic; errors, cone, geometric phase.

    python tests/benchmarks/methaniminium.py [--kinds odd invariant adiabatic] [--leave-out FAMILY] [--output DIR]
    python tests/benchmarks/methaniminium.py --data both --activation tanh      # for dynamics

The data are those of `data/methaniminium`, or of files of the same names in `--folder`: the first of the two, or with `--data
both` the first and then, from there, both. Both loops around the intersection are left out of the training altogether; of every
other family of geometries a share of `--test` is held out, or with `--leave-out` one family as a whole. Printed are for each kind
of model

- errors of energies (eV), gradients and couplings (eV/A, rigid rotations projected out, signs as they fit best) on the held-out
  geometries, family by family;
- the phases of the two loops of the data, and of loops of other radii, centres and planes, by overlaps and as integrals of d01;
- the intersection that the search finds from a twisted geometry, beside that of the data: energy, root mean square distance of
  the atoms after superposition, lengths of g and h;
- errors of the held-out geometries and loops against the distance from the seam, as the gap of the reference.

Further kinds: "more" has six odd factors in place of two; "chiral" has the one that names no atoms.
"""

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bpjax import datasets
from bpjax.descriptors import DefaultACSF
from bpjax.excited import adiabatic
from bpjax.excited.couplings import derivative_couplings
from bpjax.excited.diabatic import DiabaticPotential, MultiStatePotential
from bpjax.excited.gauge import berry_phases, followed_signs, loop_integral
from bpjax.excited.intersections import minimum_energy_intersection
from bpjax.excited.odd import Chirality, Lean, SignedVolume, Torsion, Twist
from bpjax.excited.state_losses import StatesLoss, pair_signs
from bpjax.excited.states_data import METHANIMINIUM, StatesData, concatenated, read_states, without_rigid_motions
from bpjax.excited.states_store import save_states
from bpjax.excited.train import StatesTraining, train_states
from bpjax.networks.elemental import MLP
from bpjax.units import BOHR, HARTREE

ATOMS = ("C", "N", "H", "H", "H", "H")
ODD = (Torsion((0, 1), (2, 3), (4, 5), ("C", "N")), Twist((0, 1), (2, 3), (4, 5), ("C", "N", "mirror")))
MORE = (
    SignedVolume(0, (1, 2, 3), ("C", "mirror")),
    SignedVolume(1, (0, 4, 5), ("N", "mirror")),
    Lean((0, 1), (2, 3), ("C",)),
    Lean((0, 1), (4, 5), ("N",)),
)
HIGHEST = 10.0
"""In eV above the minimum: where even the ground state lies higher trajectories do not come."""

GAPS = (0.0, 0.1, 0.3, 0.6, 1.0, 2.0, 5.0, 10.0)


def built(kind: str, network: MLP):
    """The model to train."""
    descriptor = DefaultACSF(4.0, radial=6, angular=2, zeta=(1.0, 4.0)).build(("H", "C", "N"))
    if kind == "adiabatic":
        return MultiStatePotential(descriptor, ATOMS, 3, network)
    odd, signs = {
        "odd": (ODD, ((), ("C", "N"), ("mirror",))),
        "more": (ODD + MORE, ((), ("C", "N"), ("mirror",))),
        "chiral": ((Chirality(ATOMS, (1.5, 1.0, 1.5)),), ((), ("mirror",), ("mirror",))),
        "invariant": ((), ()),
    }[kind]
    return DiabaticPotential(descriptor, ATOMS, 3, network, odd=odd, signs=signs)


class Learned:
    """A trained model at many geometries."""

    def __init__(self, model, params):
        self.model, self.params, self.zero = model, params, model.zero
        self._states = jax.jit(lambda params, R: adiabatic(partial(model, params), R))

    def __call__(self, positions):
        # One by one: a single compilation serves sets of every size.
        found = [self._states(self.params, jnp.asarray(R)) for R in positions]
        return jax.tree.map(lambda *a: jnp.stack(a), *found)

    def intersection(self, R):
        """The search from a geometry."""
        search = jax.jit(lambda params, R: minimum_energy_intersection(partial(self.model, params), R))
        return search(self.params, jnp.asarray(R))


def errors(learned: Learned, data: StatesData, chosen=None) -> dict:
    """Errors of energies, gradients and couplings; each a list over the states, couplings over the pairs."""
    data = data if chosen is None else data.pick(chosen)
    found = learned(data.positions)
    E = np.asarray(found.energies) + learned.zero - data.energies
    k, (i, j) = np.arange(3), np.triu_indices(3, 1)
    G = np.asarray(found.interstate[:, k, k]) - data.gradients
    h, h0 = np.asarray(found.interstate[:, i, j]), without_rigid_motions(data.couplings, data.positions)
    options = np.stack([(s[:, None, None] * h - h0) ** 2 for s in pair_signs(3)])
    best = np.argmin(options.sum(axis=(2, 3, 4)), axis=0)
    square = options[best, np.arange(len(data))]
    product = [np.prod(np.sum(a * np.roll(b, 1, axis=1), axis=(2, 3)), axis=1) for a, b in ((h, h), (h0, h0))]
    return {
        "geometries": len(data),
        "energy_mae_eV": rounded(np.abs(E).mean(axis=0)),
        "energy_rmse_eV": rounded(np.sqrt((E**2).mean(axis=0))),
        "gradient_rmse": rounded(np.sqrt((G**2).mean(axis=(0, 2, 3)))),
        "coupling_rmse": rounded(np.sqrt(square.mean(axis=(0, 2, 3)))),
        "coupling_rms": rounded(np.sqrt((h0**2).mean(axis=(0, 2, 3)))),
        "same_sign_of_products": float(np.mean(np.sign(product[0]) == np.sign(product[1]))),
    }


def rounded(values, digits=4):
    """Plain numbers for a line of JSON."""
    return np.round(np.asarray(values, float), digits).tolist()


def phases(learned: Learned, loop: np.ndarray) -> dict:
    """Phase of the lowest two states over pi: by overlaps, and the integral of d01."""
    found = learned(loop)
    d = np.asarray(jax.vmap(derivative_couplings)(found))[:, 0, 1]
    gap = np.asarray(found.energies[:, 1] - found.energies[:, 0])
    integral = float(loop_integral(jnp.asarray(loop), followed_signs(jnp.asarray(d))))
    return {
        "overlaps": rounded(np.asarray(berry_phases(found.states))[:2] / np.pi, 6),
        "integral": round(abs(integral) / np.pi, 6),
        "smallest_gap_eV": round(float(gap.min()), 4),
    }


def circles(meci: dict, rng) -> dict[str, np.ndarray]:
    """Loops that the data do not have, around the reference intersection: radii, centres, tilted planes; and one beside it."""
    R, g, h = (np.asarray(meci[name], float).reshape(-1) for name in ("R", "g", "h"))
    g, h = g / np.linalg.norm(g), h / np.linalg.norm(h)
    t = 2 * np.pi * np.arange(48)[:, None] / 48

    def circle(centre, a, b, radius):
        return (centre + radius * (np.cos(t) * a + np.sin(t) * b)).reshape(-1, 6, 3) * BOHR

    loops = {f"radius {r} bohr": circle(R, g, h, r) for r in (0.01, 0.04, 0.2, 0.3)}
    for n in range(3):
        shift = rng.normal(size=2)
        shift = 0.05 * (shift[0] * g + shift[1] * h) / np.linalg.norm(shift)
        loops[f"centre {n} moved by 0.05, radius 0.15"] = circle(R + shift, g, h, 0.15)
        a, b = (v + 0.3 * rng.normal(size=18) / np.sqrt(18) for v in (g, h))
        loops[f"plane {n} tilted, radius 0.1"] = circle(R, a, b, 0.1)
    loops["beside, at 0.3 bohr"] = circle(R + 0.3 * g, g, h, 0.15)
    return loops


def distance(R: np.ndarray, S: np.ndarray) -> float:
    """Root mean square distance of the atoms in A after the best superposition, over exchanges of hydrogens and mirror images."""
    best = np.inf
    for order in ([0, 1, 2, 3, 4, 5], [0, 1, 3, 2, 4, 5], [0, 1, 2, 3, 5, 4], [0, 1, 3, 2, 5, 4]):
        for image in (1.0, -1.0):
            a, b = R - R.mean(axis=0), image * (S[order] - S.mean(axis=0))
            U, size, V = np.linalg.svd(a.T @ b)
            size[-1] *= np.sign(np.linalg.det(U @ V))
            square = (a**2).sum() + (b**2).sum() - 2 * size.sum()
            best = min(best, np.sqrt(max(square, 0.0) / len(a)))
    return float(best)


def intersection(learned: Learned, start: np.ndarray, meci: dict, lowest: float) -> dict:
    """The intersection found from a geometry, beside that of the data."""
    found = learned.intersection(start)
    energy = float(found.energies[0]) + learned.zero
    g, h = (np.linalg.norm(v) for v in found.plane[:2])
    lengths = sorted((float(np.linalg.norm(meci[name])) * HARTREE / BOHR for name in ("g", "h")), reverse=True)
    return {
        "converged": bool(found.converged),
        "steps": int(found.steps),
        "gap_eV": float(found.gap),
        "above_minimum_eV": round(energy - lowest, 4),
        "reference_eV": round(float(meci["E"][0]) * HARTREE - lowest, 4),
        "distance_A": round(distance(np.asarray(found.R), meci["R"] * BOHR), 4),
        "g_h": rounded([g, h], 3),
        "reference_g_h": rounded(lengths, 3),
    }


def by_gap(learned: Learned, data: StatesData) -> list[dict]:
    """Errors against the gap of the reference."""
    gap, lines = data.energies[:, 1] - data.energies[:, 0], []
    for low, high in pairwise(GAPS):
        chosen = np.flatnonzero((gap >= low) & (gap < high))
        if len(chosen):
            lines.append({"gap_eV": [low, high], **errors(learned, data, chosen)})
    return lines


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=datasets.path("methaniminium"))
    parser.add_argument("--kinds", nargs="+", default=["odd", "invariant", "adiabatic"])
    parser.add_argument("--data", choices=("first", "both"), default="first")
    parser.add_argument("--activation", default="silu", help="tanh: energies are bounded, which dynamics needs")
    parser.add_argument("--leave-out", help="a family of geometries to hold out as a whole")
    parser.add_argument("--epochs", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--hidden", type=int, nargs="*", default=[16, 16])
    parser.add_argument("--test", type=float, default=0.15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    data = read_states(arguments.folder / "ch2nh2_sa3cas43_631gs.npz", METHANIMINIUM)
    meci = dict(np.load(arguments.folder / "meci01.npz"))
    tags = np.array(data.tags)
    loops = np.char.startswith(tags, "loop")
    rest = data.pick(np.flatnonzero(~loops))
    kept, held = rest.split(arguments.test, 1)
    if arguments.leave_out is not None:
        family = np.array(rest.tags) == arguments.leave_out
        if not family.any():
            parser.error(f"--leave-out {arguments.leave_out}: families are {', '.join(dict.fromkeys(rest.tags))}")
        kept, held = np.flatnonzero(~family), np.flatnonzero(family)
    train, test = rest.pick(kept), rest.pick(held)
    unseen = data.pick(np.concatenate([np.flatnonzero(~loops)[held], np.flatnonzero(loops)]))
    twisted = data.positions[np.flatnonzero(tags == "torsion")[-1]]
    more = None
    if arguments.data == "both":
        visited = read_states(arguments.folder / "visited.npz", METHANIMINIUM)
        reached = visited.energies[:, 0] - data.energies.min() < HIGHEST
        more = concatenated([train, visited.pick(np.flatnonzero(reached))])
    network = MLP(tuple(arguments.hidden), arguments.activation)
    for kind in arguments.kinds:
        loss = StatesLoss(couplings=None) if kind == "adiabatic" else StatesLoss()
        options = StatesTraining(
            loss=loss,
            epochs=arguments.epochs,
            batch_size=arguments.batch,
            learning_rate=arguments.rate,
            seed=arguments.seed,
        )
        began = time.monotonic()
        model = built(kind, network)
        fit = train_states(model, train, options)
        if more is not None:
            short = replace(options, epochs=arguments.epochs // 2, learning_rate=2 / 3 * arguments.rate)
            fit = train_states(model, more, short, initial=(fit.model, fit.params))
        line = {"kind": kind, "what": "training", "seconds": round(time.monotonic() - began, 1), **fit.history[-1]}
        line |= {"geometries": len(train if more is None else more), "data": arguments.data}
        line |= {"activation": arguments.activation, "left_out": arguments.leave_out}
        print(json.dumps(line), flush=True)
        if arguments.output is not None:
            arguments.output.mkdir(parents=True, exist_ok=True)
            save_states(arguments.output / f"{kind}.bpjax", fit.model, fit.params)
        learned = Learned(fit.model, fit.params)
        report(kind, learned, test, unseen, data, meci, twisted)


def report(
    kind: str, learned: Learned, test: StatesData, unseen: StatesData, data: StatesData, meci: dict, twisted
) -> None:
    """Prints the lines of one model."""

    def say(what, line):
        print(json.dumps({"kind": kind, "what": what, **line}), flush=True)

    say("test", errors(learned, test))
    for tag in dict.fromkeys(unseen.tags):
        say(f"family {tag}", errors(learned, unseen, np.flatnonzero(np.array(unseen.tags) == tag)))
    for line in by_gap(learned, unseen):
        say("gap", line)
    say("intersection", intersection(learned, twisted, meci, float(data.energies.min())))
    if kind == "adiabatic":
        return
    for tag in ("loop0.02", "loop0.10"):
        say(f"phase of {tag}", phases(learned, data.positions[np.flatnonzero(np.array(data.tags) == tag)]))
    for name, loop in circles(meci, np.random.default_rng(0)).items():
        say(f"phase, {name}", phases(learned, loop))


if __name__ == "__main__":
    main()
