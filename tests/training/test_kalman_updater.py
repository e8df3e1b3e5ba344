"""Epochs of the extended Kalman filter against NumPy: same start, same candidates, another evaluation of the potential."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

from bpjax.descriptors import DefaultACSF, SymmetryFunctions
from bpjax.errors import ConfigError
from bpjax.interop.n2p2 import read_settings
from bpjax.interop.n2p2.potential import linear_scaling
from bpjax.interop.n2p2.tables import read_scaling
from bpjax.io.labels import labels
from bpjax.io.runner import read_runner
from bpjax.networks import MLP
from bpjax.potential import Potential, init
from bpjax.training import LikelihoodLoss, TrainingOptions, kalman_updater
from bpjax.training.data_options import DataOptions
from bpjax.training.dataset import build_dataset
from bpjax.training.inputs import as_environments, store
from bpjax.training.kalman_candidates import ENERGY, FORCES, predict_energy, predict_force
from bpjax.training.kalman_options import KalmanFilter
from bpjax.training.kalman_updater import KalmanUpdater
from bpjax.training.problem import Problem
from bpjax.training.streaming import InMemory
from bpjax.training.updaters import start
from bpjax.units import BOHR, HARTREE
from tests.training.kalman_reference import ReferenceFilter, complex_step, network, symmetry_functions
from tests.training.labelled import structures


def options_of(loss=None, **kalman):
    """With the usual schedules and single components of n2p2 where nothing else is said."""
    data = DataOptions(train=("none.extxyz",))
    usual = {"epsilon": 0.01, "eta": 0.01, "eta_max": 1.0, "forces_per_update": 1, "force_group": "component"}
    return TrainingOptions(data, loss=loss or LikelihoodLoss(), optimizer=KalmanFilter(**usual | kalman))


def exact(frames, data):
    """Environments in double precision; the data set rounds its vectors."""
    R_ij = np.asarray(data.R_ij, float)
    for atoms, first in zip(frames, data.first, strict=False):
        here = slice(first, first + len(atoms))
        direct = atoms.positions[data.neighbor[here]] - atoms.positions[:, None]
        shift = np.zeros_like(direct)
        if atoms.pbc.any():
            cell = atoms.cell.complete().array
            shift = np.round((R_ij[here] - direct) @ np.linalg.inv(cell)) @ cell
        R_ij[here] = np.where(data.mask[here][:, :, None], direct + shift, 0)
    return jax.tree.map(jnp.asarray, as_environments(data)._replace(R_ij=R_ij))


def small_problem(kind="environments", count=6, elements=("Al", "Cu"), frames=None):
    frames = frames or structures(count)
    descriptor = DefaultACSF(cutoff=4.5, radial=3, angular=1, zeta=(1.0,)).build(elements)
    data = build_dataset(frames, elements, descriptor.cutoff)
    model = Potential(descriptor, MLP((4,), "tanh"))
    params = init(model, jax.random.key(0), jnp.float64)
    inputs = exact(frames, data)
    if kind == "stored":
        stored = store(descriptor, data)
        inputs = jax.tree.map(lambda a: jnp.asarray(a, float if a.dtype == np.float32 else None), stored)
    return Problem(model, params, np.zeros(len(elements)), data, data, InMemory(inputs), InMemory(inputs))


@pytest.mark.parametrize("kind", ["environments", "stored"])
def test_predictions_equal_those_of_batches(kind):
    problem = small_problem(kind)
    updater = KalmanUpdater(problem, options_of())
    p, data = problem, problem.train
    plan = p.inputs.batches(data, len(data))
    (chosen,) = plan.in_order()
    energy, forces = np.zeros(len(data)), np.zeros((len(data.species), 3))
    rows, layout = plan.layout(data, chosen)
    E, F = kalman_updater._predict(p.model, p.params, {}, p.inputs.arrays, rows, layout)
    energy[chosen], forces[np.asarray(rows.atoms)[layout.real]] = E, np.asarray(F)[layout.real]
    table_E, table_F = updater._tables
    one = jax.jit(jax.vmap(lambda r: predict_energy(p.model, p.params, p.inputs.arrays, r)))
    np.testing.assert_allclose(one(table_E.rows), energy, rtol=1e-6, atol=1e-9)
    axes = jnp.arange(3)

    def force(rows, toward, away):
        return jax.vmap(lambda axis: predict_force(p.model, p.params, p.inputs.arrays, rows, toward, away, axis))(axes)

    found = jax.jit(jax.vmap(force))(*table_F[:3])
    # Forces of batches are exact derivatives of the environments; stored derivatives are float32.
    np.testing.assert_allclose(found, forces, atol=1e-10 if kind == "environments" else 1e-5)


@pytest.mark.parametrize("kind", [ENERGY, FORCES])
@pytest.mark.parametrize("force_group", ["component", "atom"])
def test_jacobians_equal_finite_differences(kind, force_group):
    problem = small_problem()
    updater = KalmanUpdater(problem, options_of(force_group=force_group, selection="random"))
    state = start(problem, updater, None)
    setting, w = updater._setting, state.optimizer.w
    shape = next(s for s in reversed(setting.shapes) if s[0] == kind)
    errors = jax.jit(
        lambda w, c: kalman_updater._errors(
            setting, problem.params, problem.inputs.arrays, updater._tables[kind], shape, state.trained, w, c
        )
    )
    observe = jax.jit(
        lambda w, c: kalman_updater._observe(
            setting, problem.params, problem.inputs.arrays, updater._tables, state.trained, shape, w, jnp.zeros(2), c
        )
    )
    candidate = jnp.int32(4)
    H, xi, squares = observe(w, candidate[None, None])
    c = len(errors(w, candidate))
    np.testing.assert_allclose(xi[0, :c], errors(w, candidate), rtol=1e-12)
    np.testing.assert_allclose(squares, [np.sum(np.square(xi)), c], rtol=1e-12)
    step = 1e-4
    for k in np.random.default_rng(0).permutation(len(w))[:12]:
        change = errors(w.at[k].add(step), candidate) - errors(w.at[k].add(-step), candidate)
        np.testing.assert_allclose(-H[:c, k], change / (2 * step), rtol=1e-5, atol=1e-5)
    assert not np.asarray(H[c:]).any()


# ------------------------------------------------------------------- the data of n2p2, against NumPy


def n2p2_problem(folder, frames, units, shape):
    settings = read_settings(folder / "input.nn")
    energy, length = (HARTREE, BOHR) if units == "hartree-bohr" else (1.0, 1.0)
    descriptor = SymmetryFunctions(
        settings.elements, settings.functions, settings.cutoff_kind, settings.cutoff_inner, unit=length
    )
    model = Potential(descriptor, MLP(shape, "tanh"))
    params = init(model, jax.random.key(1), jnp.float64)
    tables = read_scaling(folder / "scaling.data", settings)
    params["scaling"] = {
        e: jax.tree.map(jnp.asarray, linear_scaling(settings, tables[e], descriptor.size)) for e in settings.elements
    }
    params["energy_scale"] = jnp.asarray(energy / settings.conv_energy)
    offsets = np.array([(e + settings.mean_energy) * energy for e in settings.atom_energy])
    data = build_dataset(frames, settings.elements, descriptor.cutoff)
    inputs = exact(frames, data)
    return (
        Problem(model, params, offsets, data, data, InMemory(inputs), InMemory(inputs)),
        settings,
        tables,
        energy,
        length,
    )


class Reference:
    """Energies, forces and their derivatives with the weights in the normalised units of n2p2, in NumPy alone."""

    def __init__(self, folder, frames, settings, tables, units, hidden, force_weight):
        self.hidden, self.force_weight, s = hidden, force_weight, settings
        self.elements = sorted(s.elements)
        self.lines = lines_of(folder / "input.nn", tables, s)
        self.sizes = {e: len(self.lines[e]) for e in self.elements}
        self.width = max(self.sizes.values())
        self.frames, energy, length = frames, *units
        self.to_file, self.conv_length = 1 / length, s.conv_length
        scale = s.conv_energy / energy
        offset = {e: (a + s.mean_energy) * energy for e, a in zip(s.elements, s.atom_energy, strict=True)}
        self.energy = [scale * (labels(a).energy - sum(offset[x] for x in a.symbols)) for a in frames]
        self.forces = [scale * length / s.conv_length * labels(a).forces for a in frames]
        self.scaling = {e: (t[:, 2], 1 / (t[:, 1] - t[:, 0])) for e, t in tables.items()}

    def features(self, n, R):
        """Scaled features of each atom, for positions in the unit of the file."""
        symbols = np.array(self.frames[n].get_chemical_symbols())
        found = symmetry_functions(R, symbols, self.lines)
        scaled = ((g - self.scaling[e][0]) * self.scaling[e][1] for g, e in zip(found, symbols, strict=True))
        return [np.pad(g, (0, self.width - len(g))) for g in scaled], symbols

    def _sum(self, w, n, features, symbols, direction=None):
        count, total = len(w) // len(self.elements), 0
        for k, e in enumerate(self.elements):
            own = symbols == e
            if not own.any():
                continue
            out, back = network(w[k * count : (k + 1) * count], (self.width, *self.hidden, 1), features[own])
            total = total + (out.sum() if direction is None else np.sum(back * direction[own]))
        return total

    def prediction(self, n, place=None):
        """Function of the weights: the energy of structure n, or, with `place` (atom, axis), a component of its forces."""
        R = self.frames[n].positions * self.to_file
        if place is None:
            features, symbols = self.features(n, R)
            return lambda w: self._sum(w, n, np.array(features), symbols)
        moved = R.astype(complex)
        moved[place] += 1e-40j
        features, symbols = self.features(n, moved)
        x = np.array(features)
        return lambda w: -self._sum(w, n, x.real, symbols, x.imag / 1e-40) / self.conv_length

    def observation(self, w, n, place=None):
        """Error and derivatives, as n2p2 takes them: forces times `force_weight`."""
        y = self.prediction(n, place)
        reference, factor = (self.energy[n], 1.0) if place is None else (self.forces[n][place], self.force_weight)
        return factor * (reference - y(w)), factor * complex_step(y, w)


def lines_of(path, tables, settings):
    """Lines of input.nn per element in the order of the model's features, which tests of the reader compare with n2p2."""
    lines = {e: [] for e in settings.elements}
    for line in path.read_text().splitlines():
        words = line.split("#")[0].split()
        if words[:1] != ["symfunction_short"]:
            continue
        kind, names = int(words[2]), 1 if words[2] == "2" else 2
        lines[words[1]].append((kind, *words[3 : 3 + names], *map(float, words[3 + names :])))
    order = {e: rank for rank, e in enumerate(settings.elements)}

    def key(line):
        if line[0] == 2:
            _, e, eta, r_s, r_c = line
            return (2, r_c, eta, r_s, order[e])
        _, e1, e2, eta, lam, zeta, r_c = line
        return (3, r_c, eta, 0.0, zeta, lam, *sorted((order[e1], order[e2])))

    return {e: sorted(found, key=key) for e, found in lines.items()}


def follow(updater, reference, state, epochs):
    """The same epochs in NumPy, for single candidates: kinds and trials as scheduled, chosen by errors found here."""
    o, data = updater.options, updater.problem.train
    structure = np.repeat(np.arange(len(data)), data.sizes)
    atoms = [(int(structure[a]), int(a - data.first[structure[a]])) for a in updater.usable[FORCES] // 3]
    places = [[(int(n), None) for n in updater.usable[ENERGY]]]
    places.append([(n, (a, int(c % 3))) for (n, a), c in zip(atoms, updater.usable[FORCES], strict=True)])
    filtered = ReferenceFilter(o, state.optimizer.w, sum(updater.updates))
    for epoch in range(epochs):
        schedule = updater._schedule(epoch, None)
        rmse = [0.0, 0.0]
        if o.selection == "threshold":
            rmse = [np.sqrt(np.mean([reference.observation(filtered.w, *p)[0] ** 2 for p in here])) for here in places]
        for branch, tried in zip(np.asarray(schedule.branch), np.asarray(schedule.candidates)[:, 0], strict=True):
            kind = updater._setting.shapes[branch][0]
            where = {int(c): p for c, p in zip(updater.usable[kind], places[kind], strict=True)}
            found = [reference.observation(filtered.w, *where[int(c)]) for c in tried]
            sizes = np.abs([xi for xi, _ in found])
            threshold = (o.energy_threshold, o.forces_threshold)[kind] * rmse[kind]
            above = np.flatnonzero(sizes > threshold)
            xi, H = found[above[0] if len(above) else int(np.argmax(sizes))]
            filtered.update(H[:, None], np.array([xi]))
    return filtered


def compare(folder, frames, units, hidden, force_weight, epochs, **kalman):
    problem, settings, tables, energy, length = n2p2_problem(folder, frames, units, hidden)
    unit = energy / settings.conv_energy
    loss = LikelihoodLoss(unit, unit * settings.conv_length / length / force_weight, None, energy_per="structure")
    updater = KalmanUpdater(problem, options_of(loss, **kalman))
    state = start(problem, updater, None)
    reference = Reference(folder, frames, settings, tables, (energy, length), hidden, force_weight)
    wanted = follow(updater, reference, state, epochs)
    first = np.asarray(state.optimizer.w)
    state = updater.advance(state, 0, epochs)
    return first, np.asarray(state.optimizer.w), state.optimizer.filter, wanted


# Rounding grows: in NumPy alone, a start 1e-15 away ends 2e-12 away after two fading epochs, and 3e-9 after three.
@pytest.mark.parametrize(("kind", "epochs"), [("standard", 3), ("fading", 2)])
def test_neon_dimers_of_n2p2_as_in_numpy(shared, kind, epochs):
    folder = shared / "data" / "n2p2" / "train_LJ"
    frames = read_runner(folder / "input.data", "ev-angstrom", "::8")
    options = dict(kind=kind, selection="threshold", forces_threshold=1.0, energy_threshold=0.5, force_energy_ratio=1.0)
    first, w, found, wanted = compare(folder, frames, "ev-angstrom", (3,), 1.0, epochs, **options)
    assert np.abs(w - first).max() > 0.1
    np.testing.assert_allclose(w, wanted.w, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.P[0], wanted.P, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_water_of_n2p2_as_in_numpy(shared):
    # Molecules cut out of the boxes, with the forces they had there: any labels do for this comparison.
    folder = shared / "data" / "n2p2" / "train_H2O_RPBE-D3"
    frames = []
    for atoms in read_runner(folder / "input.data", "hartree-bohr", ":3"):
        part = Atoms(atoms.symbols[:9], atoms.positions[:9])
        energy = labels(atoms).energy * 9 / len(atoms)
        part.calc = type(atoms.calc)(part, energy=energy, forces=labels(atoms).forces[:9])
        frames.append(part)
    options = dict(selection="random", force_energy_ratio=2.0)
    first, w, found, wanted = compare(folder, frames, "hartree-bohr", (4, 3), 10.0, 2, **options)
    assert np.abs(w - first).max() > 0.1
    np.testing.assert_allclose(w, wanted.w, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(found.P[0], wanted.P, rtol=1e-6, atol=1e-6)


# --------------------------------------------------------------------------------- the run as a whole


def run(problem, epochs, **kalman):
    updater = KalmanUpdater(problem, options_of(**kalman))
    return updater, updater.advance(start(problem, updater, None), 0, epochs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kalman",
    [
        {"selection": "threshold", "energies_per_update": 2, "forces_per_update": 3, "force_group": "atom"},
        {"selection": "sorted", "group": "sum", "energies_per_update": 2, "blocks": "layer"},
        {"selection": "random", "blocks": "element", "kind": "fading", "average": 0.5},
    ],
)
def test_resumes_exactly_and_compiles_once(kalman, monkeypatch):
    problem = small_problem("stored", count=4)
    traced = []
    monkeypatch.setattr(kalman_updater, "update", lambda *a, f=kalman_updater.update: traced.append(1) or f(*a))
    updater = KalmanUpdater(problem, options_of(**kalman))
    state = updater.advance(start(problem, updater, None), 0, 1)
    assert len(traced) == 1
    half = updater.advance(state, 1, 2)
    final = updater.advance(half, 2, 4)
    assert len(traced) == 1
    # A second updater, from what a checkpoint holds, makes the same steps to the last bit.
    again = KalmanUpdater(problem, options_of(**kalman)).advance(jax.device_get(half), 2, 4)
    for a, b in zip(jax.tree.leaves(final), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(final.step) == 4 and np.isfinite(list(updater.shown(final).values())).all()


@pytest.mark.slow
def test_learns():
    problem = small_problem("stored", count=8)
    updater = KalmanUpdater(problem, options_of(force_group="atom", forces_per_update=3))
    state = start(problem, updater, None)

    def squares(trained):
        return sum(np.mean(errors**2) for errors in updater._errors(trained))

    assert squares(updater.advance(state, 0, 6).trained) < 0.3 * squares(state.trained)


@pytest.mark.parametrize("blocks", [pytest.param("element", marks=pytest.mark.slow), "layer"])
def test_one_element_or_layer_is_the_whole_filter(blocks):
    frames = [a for a in structures(24) if set(a.symbols) == {"Al"}][:3]
    problem = small_problem("stored", elements=("Al",), frames=frames)
    if blocks == "layer":
        model = replace(problem.model, network=MLP(()))
        problem = problem._replace(model=model, params=init(model, jax.random.key(0), jnp.float64))
    _, one = run(problem, 2, blocks=blocks)
    _, two = run(problem, 2, blocks="global")
    np.testing.assert_allclose(one.optimizer.w, two.optimizer.w, rtol=1e-10, atol=1e-12)
    assert len(one.optimizer.filter.P) == 1


def test_elements_see_their_share_of_an_energy():
    problem = small_problem("stored")
    updater = KalmanUpdater(problem, options_of(blocks="element", selection="random"))
    state = start(problem, updater, None)
    shape = (ENERGY, int(problem.train.sizes.max()))
    setting, tables, w = updater._setting, updater._tables, state.optimizer.w

    def seen(candidate):
        arguments = (problem.params, problem.inputs.arrays, tables, state.trained, shape, w, jnp.zeros(2), candidate)
        return kalman_updater._observe(setting, *arguments)[1][:, 0]

    found = jax.jit(jax.vmap(seen))(jnp.arange(len(problem.train), dtype=jnp.int32)[:, None, None])
    counts = problem.train.counts
    np.testing.assert_allclose(
        found / found.sum(axis=1, keepdims=True), counts / counts.sum(axis=1, keepdims=True), rtol=1e-10, atol=1e-12
    )


def test_candidates():
    problem = small_problem("stored", count=8)
    updater = KalmanUpdater(problem, options_of(selection="sorted", energy_fraction=0.5, forces_fraction=0.1))
    trained = problem.params["networks"]
    energy, forces = updater._errors({"networks": trained})
    schedule = updater._schedule(0, {"networks": trained})
    kinds = np.array([updater._setting.shapes[b][0] for b in schedule.branch])
    found = np.asarray(schedule.candidates)[:, 0, 0]
    assert updater.updates == ((kinds == ENERGY).sum(), (kinds == FORCES).sum()) == (4, round(0.1 * len(forces)))
    np.testing.assert_array_equal(found[kinds == ENERGY], np.argsort(-energy)[:4])
    np.testing.assert_array_equal(found[kinds == FORCES], np.argsort(-forces)[: updater.updates[1]])
    # Random: each candidate once before any comes again, another order in each epoch.
    updater = KalmanUpdater(problem, options_of(selection="random", forces_fraction=1.0))
    orders = []
    for epoch in range(2):
        schedule = updater._schedule(epoch, None)
        kinds = np.array([updater._setting.shapes[b][0] for b in schedule.branch])
        orders.append(np.asarray(schedule.candidates)[kinds == FORCES, 0, 0])
        np.testing.assert_array_equal(np.sort(orders[-1]), updater.usable[FORCES])
    assert (orders[0] != orders[1]).any()


def test_weights_are_weights_of_squares():
    problem = small_problem("stored", count=4)
    train, weight = problem.train, np.array([3.0, 1.0, 0.0, 0.0])
    of_forces = np.where(np.arange(len(train.species)) == 1, 0.0, 2.0)
    heavy = problem._replace(train=replace(train, weight=weight, forces_weight=of_forces))
    updater = KalmanUpdater(heavy, options_of(selection="random"))
    assert updater.usable[ENERGY].tolist() == [0, 1]
    assert sorted(set(updater.usable[FORCES] // 3)) == [n for n in range(train.first[2]) if n != 1]
    plain = KalmanUpdater(problem, options_of(selection="random"))
    np.testing.assert_allclose(
        updater._tables[FORCES].scale ** 2,
        np.repeat([3, 1, 0, 0], train.sizes) * of_forces * plain._tables[FORCES].scale ** 2,
    )
    np.testing.assert_allclose(
        updater._tables[ENERGY].scale ** 2, np.array([3, 1, 0, 0]) * plain._tables[ENERGY].scale ** 2
    )


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (LikelihoodLoss(learned=True), "loss.learned: the Kalman filter takes squared errors of constant widths"),
        (LikelihoodLoss(huber=1.0), "loss.huber"),
        (LikelihoodLoss(energy=None, forces=None, stress=0.1), "loss: no energies or forces to fit"),
    ],
)
def test_losses_that_do_not_fit(loss, message):
    with pytest.raises(ConfigError, match=message):
        KalmanUpdater(small_problem("stored", count=4), options_of(loss))
