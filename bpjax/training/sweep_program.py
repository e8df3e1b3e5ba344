r"""Which points of a sweep share a compiled program, and the arrays in which the members of a program differ.

This is the one place that decides what is *traced* (an array with a leading axis of members) and what is *static* (part of the
program). Points whose options agree in all that is static make one group:

=====================================  ========================================================================================
option                                 as an array
=====================================  ========================================================================================
optimizer.learning_rate, weight_decay  `Hyper`
optimizer.start_seed                   first parameters
loss.energy, forces, stress            factors of the widths; static with widths that are learned or change
network.hidden                         masks of the widest layers of the space, one group for each number of layers; the first
                                       parameters are those of the narrow network among zeros, which stay zeros
network.activation                     factors of all activations of the space, of which one is 1
descriptor, eta, r_s and kappa         where they come from an interval: parameters of the symmetry functions, with a scaling
                                       of the features for each member; static from a list, since features can then be stored
=====================================  ========================================================================================

A node that is masked sends nothing on and gets no gradient: a masked network takes the same steps as the narrow one (with Adam
and its relatives and L-BFGS; "muon" scales steps by the shapes of matrices, hence widths are static with it).
"""

import json
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bpjax.descriptors import ACSF, Descriptor, DescriptorSet
from bpjax.errors import ConfigError
from bpjax.networks.elemental import MLP, NetworkChoices
from bpjax.networks.scaling import fit_scaling
from bpjax.potential.energy import Params, Potential, init
from bpjax.progress import ProgressFn, silent
from bpjax.spec import to_spec
from bpjax.training.hyper import Hyper
from bpjax.training.inputs import store_features
from bpjax.training.kalman_options import KalmanFilter
from bpjax.training.losses import KINDS, Widths
from bpjax.training.optimizers import LBFGS, OptimizerOptions
from bpjax.training.options import TrainingOptions
from bpjax.training.prepare import Structures
from bpjax.training.problem import Problem, free_atoms_of, learned_widths, pose, preconditioned
from bpjax.training.sweep_space import Choice, Interval, Space
from bpjax.training.updaters import State, Updater, start

UNFIT = ("exponential", "harmonic")
"""Activations that may overflow where they are not chosen, and zero times infinity is not a number: always static."""


class Member(NamedTuple):
    """A point as a run of its own: its options, with the descriptor that they ask for."""

    options: TrainingOptions
    descriptor: Descriptor


class Group(NamedTuple):
    """Points that are trained in one program.

    Attributes:
      template: options of the program, the same for all members but for what is traced.
      members: options of each member.
      indices: which points they are.
      traced: whether the symmetry functions are traced.
      activations: names of those that are traced; empty for none.
    """

    template: TrainingOptions
    members: tuple[Member, ...]
    indices: tuple[int, ...]
    traced: bool
    activations: tuple[str, ...]


@dataclass
class Programs:
    """Sorts points into groups, and poses the problem of each.

    Attributes:
      structures: training and validation structures.
      space: of the sweep.
      base: the options of the training file.
    """

    structures: Structures
    space: Space
    base: TrainingOptions
    _posed: dict[str, Problem] = field(default_factory=dict)

    def member(self, options: TrainingOptions) -> Member:
        """The run of a point."""
        if isinstance(options.optimizer, KalmanFilter):
            message = "the Kalman filter trains one network at a time, hence no sweep; take OptimizerOptions or LBFGS"
            raise ConfigError(message, field="optimizer.type")
        found = options.descriptor
        return Member(options, found.build(self.structures.elements) if isinstance(found, DescriptorSet) else found)

    def groups(self, points: list[TrainingOptions]) -> list[Group]:
        """Points by program, in the order of their first members."""
        found: dict[str, Group] = {}
        for index, options in enumerate(points):
            member = self.member(options)
            template, traced, activations = self._template(member)
            known = found.setdefault(_text(template), Group(template, (), (), traced, activations))
            found[_text(template)] = known._replace(members=(*known.members, member), indices=(*known.indices, index))
        return list(found.values())

    def _template(self, member: Member) -> tuple[TrainingOptions, bool, tuple[str, ...]]:
        """Options with the same value for all points where it is traced; whether the descriptor is; activations that are."""
        options, space = member.options, self.space
        o, loss, network = options.optimizer, options.loss, options.network
        optimizer: dict[str, Any] = {"start_seed": 0} if "optimizer.start_seed" in space else {}
        if isinstance(o, OptimizerOptions):
            optimizer |= {k: 1.0 for k in ("learning_rate", "weight_decay") if f"optimizer.{k}" in space}
        if not loss.learned and all(getattr(loss, f"final_{kind}") is None for kind in KINDS):
            given = [k for k in KINDS if f"loss.{k}" in space and getattr(loss, k) is not None]
            loss = replace(loss, **dict.fromkeys(given, 1.0))
        activations: tuple[str, ...] = ()
        if isinstance(network, MLP) and _masks_fit(o):
            network = replace(network, hidden=self._widest(network.hidden))
            if network.activation in self._activations():
                activations = self._activations()
                network = replace(network, activation=activations[0])
        descriptor, traced = member.descriptor, self._traces(member)
        if traced:
            assert isinstance(descriptor, ACSF)
            descriptor, optimizer["inputs"] = _canonical(descriptor), "environments"
        changed = {"optimizer": replace(o, **optimizer), "loss": loss, "network": network, "descriptor": descriptor}
        return replace(options, **changed), traced, activations

    def _widest(self, hidden: tuple[int, ...]) -> tuple[int, ...]:
        """The largest width of each hidden layer among the networks of the space with as many as this one."""
        axis = self.space.get("network.hidden")
        lists = (
            [hidden, *(tuple(v) for v in axis.values if len(v) == len(hidden))]
            if isinstance(axis, Choice)
            else [hidden]
        )
        widest = list(map(max, zip(*lists, strict=True)))
        for layer in range(len(hidden)):
            axis = self.space.get(f"network.hidden[{layer}]")
            widest[layer] = widest[layer] if axis is None else int(max(axis.ends()))
        return tuple(widest)

    def _activations(self) -> tuple[str, ...]:
        axis = self.space.get("network.activation")
        names = axis.values if isinstance(axis, Choice) else ()
        return tuple(sorted(name for name in names if isinstance(name, str) and name not in UNFIT))

    def _traces(self, member: Member) -> bool:
        """Whether the symmetry functions have values from an interval, and features need not be stored."""
        own = member.descriptor
        interval = any(n.startswith("descriptor.") and isinstance(a, Interval) for n, a in self.space.items())
        learnable = isinstance(own, ACSF) and not own.learn and bool(own.g2 or own.g3 or own.g4 or own.g5)
        o = member.options.optimizer
        # What networks are preconditioned with are the features of a single descriptor.
        return interval and learnable and o.inputs in ("auto", "environments") and not o.precondition

    def shape(self, member: Member) -> str:
        """What the cost of a model depends on: its descriptor but for values, and its network."""
        own = member.descriptor
        return _text([to_spec(_canonical(own) if isinstance(own, ACSF) else own), to_spec(member.options.network)])

    # ------------------------------------------------------------------------------------------------ problems

    def pose(self, group: Group, progress: ProgressFn = silent) -> Problem:
        """The problem of a group. Features are kept for other groups with the same descriptor while there is memory."""
        template = group.template
        o = template.optimizer
        weights = tuple(sorted(template.data.weights.items()))
        derivatives = template.loss.forces is not None or template.loss.stress is not None
        key = _text([to_spec(template.descriptor), weights, derivatives, o.inputs, o.memory_gb])
        if key not in self._posed:
            while self._posed and sum(map(_bytes, self._posed.values())) > 0.5e9 * o.memory_gb:
                self._posed.pop(next(iter(self._posed)))
            self._posed[key] = pose(self.structures, replace(template, noise=None), progress)
        base = self._posed[key]
        descriptor = base.model.descriptor
        if group.traced:
            assert isinstance(descriptor, ACSF)
            descriptor = replace(descriptor, learn=True)
        model = replace(base.model, descriptor=descriptor, network=template.network, noise=template.noise)
        params = {**init(model, jax.random.key(0)), **{k: base.params[k] for k in ("scaling", "energy_scale")}}
        if group.traced:
            params.pop("descriptor")  # it is in `Hyper.fixed`, and not trained
        if template.loss.learned:
            params["widths"] = learned_widths(template.loss)
        return base._replace(model=model, params=params)

    def hyper(self, group: Group, problem: Problem) -> Hyper:
        """What differs between the members of a group, with a leading axis of them."""
        each = []
        for member in group.members:
            options = member.options
            widths = {k: _factor(getattr(options.loss, k), getattr(group.template.loss, k)) for k in KINDS}
            each.append(Hyper.of(options)._replace(widths=Widths(**widths), fixed=self._fixed(group, member, problem)))
        return jax.tree.map(lambda *a: jnp.stack([jnp.asarray(x) for x in a]), *each)

    def _fixed(self, group: Group, member: Member, problem: Problem) -> dict:
        fixed: dict[str, Any] = {}
        network, own = group.template.network, member.options.network
        if isinstance(network, MLP) and isinstance(own, MLP):
            wide = any(f"network.hidden{n}" in self.space for n in ("", *(f"[{i}]" for i in range(len(own.hidden)))))
            pairs = zip(network.hidden, own.hidden, strict=True)
            masks = {f"hidden_{n}": np.float32(np.arange(w) < h) for n, (w, h) in enumerate(pairs)} if wide else None
            chosen = {name: np.float32(name == own.activation) for name in group.activations} or None
            if masks or chosen:
                fixed["choices"] = NetworkChoices(masks, chosen)  # pyright: ignore[reportArgumentType]
        if group.traced:
            assert isinstance(member.descriptor, ACSF)
            fixed["descriptor"] = replace(member.descriptor, learn=True).parameters(jnp.float32)
            G = store_features(problem.model.descriptor, problem.train, params={"descriptor": fixed["descriptor"]}).G
            fixed["scaling"] = fit_scaling(G, problem.train.species, problem.model.elements)
        return fixed

    # -------------------------------------------------------------------------------------------------- state

    def start(self, group: Group, problem: Problem, updater: Updater) -> State:
        """The state before the first step: each member starts from the parameters that it would have on its own."""
        o = group.template.optimizer
        seeds = np.array([m.options.optimizer.starts_from for m in group.members])
        state = start(problem, updater, seeds, precondition=o.precondition)
        wide_alone = all(_hidden(m.options) == _hidden(group.template) for m in group.members)
        if wide_alone and not (group.activations and o.precondition):
            return state
        trained = dict(state.trained)
        wide = jax.tree.map(lambda a: a[0], trained["networks"])
        own = [_embedded(self.alone(m, problem, first=True)[1]["networks"], wide) for m in group.members]
        trained["networks"] = jax.tree.map(lambda *a: jnp.stack(a), *own)
        return state._replace(trained=trained, average=trained, best=trained, optimizer=updater.init(trained))

    def alone(self, member: Member, problem: Problem, *, first: bool = False) -> tuple[Potential, Params]:
        """The potential of a member, with nothing traced, and its first parameters (or only the shapes of some)."""
        model = replace(problem.model, descriptor=member.descriptor, network=member.options.network)
        key = jax.random.key(member.options.optimizer.starts_from)
        if not first:
            return model, jax.eval_shape(lambda k: init(model, k), key)
        params = init(model, key)
        if member.options.optimizer.precondition:
            params["networks"] = preconditioned(model, params["networks"], problem.samples)
        return model, params

    def finished(self, group: Group, problem: Problem, hyper: Hyper, best: Any, n: int) -> tuple[Potential, Params]:
        """The n-th member as a potential of its own: masked nodes cut out, values of the descriptor put back."""
        model, shapes = self.alone(group.members[n], problem)
        own = jax.tree.map(lambda a: a[n], (hyper.fixed, best))
        params = {**problem.params, **{k: v for k, v in own[0].items() if k == "scaling"}, **own[1]}
        params.pop("widths", None)
        cut = jax.tree.map(lambda a, s: a[tuple(slice(k) for k in s.shape)], params["networks"], shapes["networks"])
        params = {**params, "networks": cut}
        return model, {**params, **free_atoms_of(problem, model, params)}


def _text(value: Any) -> str:
    return json.dumps(to_spec(value), sort_keys=True)


def _hidden(options: TrainingOptions):
    return getattr(options.network, "hidden", None)


def _masks_fit(optimizer) -> bool:
    return isinstance(optimizer, LBFGS) or (isinstance(optimizer, OptimizerOptions) and optimizer.method != "muon")


def _factor(own: float | None, template: float | None) -> jax.Array:
    return jnp.float32(1.0 if own is None or template is None else own / template)


def _embedded(narrow, wide):
    """Arrays of the narrow network in the first places of those of the wide one, zeros elsewhere."""
    return jax.tree.map(
        lambda a, w: jnp.pad(a, [(0, m - n) for n, m in zip(a.shape, w.shape, strict=True)]), narrow, wide
    )


def _canonical(own: ACSF) -> ACSF:
    """The set with eta, r_s and kappa replaced by the numbers of the radial parts: equal for sets that differ in values only."""

    def numbered(functions):
        parts = list(dict.fromkeys((p.eta, p.r_s) for p in functions))
        return tuple(replace(p, eta=1.0, r_s=float(parts.index((p.eta, p.r_s)))) for p in functions)

    kappas = tuple(float(n) for n in range(len(own.g3)))
    return replace(own, g2=numbered(own.g2), g3=kappas, g4=numbered(own.g4), g5=numbered(own.g5))


def _bytes(problem: Problem) -> int:
    held = (problem.inputs.arrays, problem.validation_inputs.arrays)
    return sum(np.asarray(a).nbytes for a in jax.tree.leaves(held))
