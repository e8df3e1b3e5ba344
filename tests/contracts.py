"""What every descriptor must do, as tests to inherit.

A test module of a descriptor subclasses `DescriptorContract` and gives a fixture `descriptor` that runs over its examples;
every example is then held to the same promises. The environments have a fixed number of slots, so that each example is
compiled a handful of times only.

>>> class TestMine(DescriptorContract):
...     @pytest.fixture(params=EXAMPLES)
...     def descriptor(self, request):
...         return request.param
"""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.descriptors.base import Descriptor
from bpjax.descriptors.function_kernels import CORE_FORMULAS
from bpjax.descriptors.reduced import Chosen
from bpjax.potential import Potential
from bpjax.spec import from_spec, to_spec

K = 7
"""Slots of the environments."""

VANISHING = {"hard": -1, "cosine": 1, "tanh3": 2, "tanh3n": 2, "exp": 4, "poly1": 1, "poly2": 2, "poly3": 3, "poly4": 4}
"""Derivatives of each cutoff function that go to zero at the cutoff radius, counted independently of the package."""


ONCE = {"xla_backend_optimization_level": 0}
"""For large programs that run a few times only: how long it takes to compile them is all that counts."""

CENTRE = 0
"""Species of the atom in the middle."""


def _direction(n, dtype=jnp.float64):
    """Fixed directions without any symmetry, so that no derivative cancels by accident."""
    v = np.random.default_rng(n).normal(size=(K, 3))
    return jnp.asarray(v / np.linalg.norm(v), dtype)


def _combination(descriptor, dtype):
    return jnp.asarray(np.random.default_rng(1).uniform(0.5, 1.5, descriptor.size), dtype)


def _combined(descriptor, R_ij, species_j, mask):
    """One number that depends on every feature."""
    G = descriptor(R_ij, species_j, mask, CENTRE)
    return jnp.sum(G * _combination(descriptor, G.dtype))


@partial(jax.jit, static_argnums=0)
def features_and_gradient(descriptor, R_ij, species_j, mask):
    """All features, and the gradient of the combined ones, compiled together."""
    G, pullback = jax.vjp(lambda R: descriptor(R, species_j, mask, CENTRE), R_ij)
    return G, pullback(_combination(descriptor, G.dtype))[0]


def features(descriptor, R_ij, species_j, mask):
    return features_and_gradient(descriptor, R_ij, species_j, mask)[0]


def gradient(descriptor, R_ij, species_j, mask):
    return features_and_gradient(descriptor, R_ij, species_j, mask)[1]


@partial(jax.jit, static_argnums=0, compiler_options=ONCE)
def derivatives(descriptor, R_ij, species_j, mask):
    """Of the combined features: all first derivatives, second ones along a direction, third ones along two.

    The second ones are by reverse mode twice, as in training. Last those along the other direction, by forward mode over reverse.
    """

    def first_and_second(R):
        first, pullback = jax.vjp(jax.grad(lambda R: _combined(descriptor, R, species_j, mask)), R)
        return first, pullback(_direction(2))[0]

    (first, second), (forward, third) = jax.jvp(first_and_second, (R_ij,), (_direction(3),))
    return first, second, third, forward


def environment(descriptor, seed=0, slots=K, farthest=0.9):
    """Neighbours at random directions, between 0.3 and `farthest` of the cutoff, of all elements in turn."""
    random = np.random.default_rng(seed)
    u = random.normal(size=(slots, 3))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    r = random.uniform(0.3, farthest, slots) * descriptor.cutoff
    species = np.arange(slots) % len(descriptor.elements)
    return jnp.asarray(u * r[:, None]), jnp.asarray(species, jnp.int32), jnp.ones(slots, bool)


def rotations():
    """A rotation, a reflection, and the inversion."""
    Q, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    Q *= np.sign(np.linalg.det(Q))
    return {"rotation": Q, "reflection": Q @ np.diag([1.0, 1.0, -1.0]), "inversion": -np.eye(3)}


def special_environments(descriptor):
    """Environments where a formula may divide by zero or meet an edge: name -> (R_ij, species_j, mask)."""
    R, species, mask = environment(descriptor)
    r_c = descriptor.cutoff
    u = R[-1] / jnp.linalg.norm(R[-1])
    out = {"ordinary": (R, species, mask), "no neighbours": (R, species, jnp.zeros_like(mask))}
    for name, r in {
        "at the cutoff": r_c,
        "just inside": r_c * (1 - 1e-9),
        "one rounding inside": np.nextafter(r_c, 0),
        "just outside": np.nextafter(r_c, 9e9),
        "far outside": 3 * r_c,
    }.items():
        out[name] = R.at[-1].set(r * u), species, mask
    for name, factor in {
        "opposite": -1.0,
        "in line": 1.7,
    }.items():  # cos = -1, +1; several directions round differently
        pairs = [R.at[1].set(R[0] * factor), R.at[jnp.array([1, 4])].set(R[jnp.array([0, 3])] * factor)]
        axis = jnp.asarray([0.4 * r_c, 0.0, 0.0])
        pairs.append(R.at[0].set(axis).at[1].set(axis * factor))
        pairs.append(R.at[0].set(axis[::-1]).at[1].set(axis[::-1] * factor))
        for n, Rn in enumerate(pairs):
            out[f"{name} {n}"] = Rn, species, mask
    # Two neighbours exactly r_c apart.
    out["pair at the cutoff"] = (
        R.at[0].set(jnp.asarray([r_c / 2, 0.1, 0.0])).at[1].set(jnp.asarray([-r_c / 2, 0.1, 0.0])),
        species,
        mask,
    )
    dead = mask.at[2].set(False).at[3].set(False)
    out["masked slots coincide"] = R.at[2].set(R[3]), species, dead
    out["masked slot on a neighbour"] = R.at[2].set(R[0]), species, dead
    out["masked slot on the centre"] = R.at[2].set(0.0).at[3].set(0.0), species, dead
    return out


class DescriptorContract:
    """The promises; subclasses give the fixture `descriptor`."""

    pytestmark = pytest.mark.usefixtures("strict_promotion")

    def test_satisfies_the_protocol(self, descriptor):
        assert isinstance(descriptor, Descriptor)
        assert hash(descriptor) == hash(from_spec(type(descriptor), to_spec(descriptor)))

    def test_size_and_labels_agree(self, descriptor):
        G = features(descriptor, *environment(descriptor))
        assert G.shape == (descriptor.size,)
        assert len(descriptor.labels) == len(set(descriptor.labels)) == descriptor.size

    def test_every_feature_sees_something(self, descriptor):
        G = np.stack([features(descriptor, *environment(descriptor, seed)) for seed in range(3)])
        assert (G.std(axis=0) > 0).all()

    def test_spec_round_trip_through_json(self, descriptor):
        plain = json.loads(json.dumps(to_spec(descriptor), allow_nan=False))
        assert from_spec(type(descriptor), plain) == descriptor

    def test_permutation_of_neighbours(self, descriptor):
        R, species, mask = environment(descriptor)
        order = np.random.default_rng(0).permutation(K)
        # Only the order of summation changes.
        _close(features(descriptor, R[order], species[order], mask[order]), features(descriptor, R, species, mask))

    @pytest.mark.parametrize("name", rotations())
    def test_rotation_and_reflection(self, descriptor, name):
        R, species, mask = environment(descriptor)
        Q = jnp.asarray(rotations()[name])
        _close(features(descriptor, R @ Q.T, species, mask), features(descriptor, R, species, mask))
        _close(gradient(descriptor, R @ Q.T, species, mask), gradient(descriptor, R, species, mask) @ Q.T)

    @pytest.mark.parametrize("garbage", [np.nan, 0.0, np.inf, 1e300], ids=str)
    def test_padding(self, descriptor, garbage):
        R, species, mask = environment(descriptor)
        slots = np.random.default_rng(1).permutation(2 * K)[:K]
        padded = jnp.full((2 * K, 3), garbage).at[slots].set(R)
        padded_species = jnp.full(2 * K, 10**6, jnp.int32).at[slots].set(species)
        padded_mask = jnp.zeros(2 * K, bool).at[slots].set(mask)
        # Zeros are added, in another order.
        _close(features(descriptor, padded, padded_species, padded_mask), features(descriptor, R, species, mask))
        g = gradient(descriptor, padded, padded_species, padded_mask)
        _close(g[slots], gradient(descriptor, R, species, mask))
        np.testing.assert_array_equal(np.delete(np.asarray(g), slots, axis=0), 0.0)

    def test_masked_neighbour_is_no_neighbour(self, descriptor):
        R, species, mask = environment(descriptor)
        few = mask.at[jnp.array([1, 5])].set(False)
        order = np.argsort(~np.asarray(few), kind="stable")
        far = R.at[jnp.array([1, 5])].multiply(50.0)
        _close(features(descriptor, far, species, mask), features(descriptor, R[order], species[order], few[order]))

    def test_isolated_atom_has_finite_features_that_never_change(self, descriptor):
        R, species, mask = environment(descriptor)
        nothing = jnp.zeros_like(mask)
        G = features(descriptor, R, species, nothing)
        assert np.isfinite(G).all()
        np.testing.assert_array_equal(G, features(descriptor, 2 * R, species, nothing))
        np.testing.assert_array_equal(gradient(descriptor, R, species, nothing), 0.0)

    def test_isolated_atom_without_any_slot(self, descriptor):
        empty = jnp.zeros((0, 3)), jnp.zeros(0, jnp.int32), jnp.zeros(0, bool)
        R, species, mask = environment(descriptor)
        isolated = features(descriptor, R, species, jnp.zeros_like(mask))
        np.testing.assert_array_equal(features(descriptor, *empty), isolated)

    def test_goes_smoothly_to_zero_at_the_cutoff(self, descriptor):
        R, species, mask = environment(descriptor)
        r_c, u = descriptor.cutoff, R[-1] / jnp.linalg.norm(R[-1])

        def difference(r):
            """What the last neighbour at distance r adds to values, first and second derivatives."""
            out = []
            for m in (mask, mask.at[-1].set(False)):
                env = R.at[-1].set(r * u), species, m
                out.append((features(descriptor, *env), *derivatives(descriptor, *env)[:2]))
            return [np.abs(a - b) for a, b in zip(*out, strict=True)]

        inside, edge = [difference(x * r_c) for x in (0.5, 0.6, 0.7, 0.8, 0.9)], difference(r_c - 1e-6)
        cores = {f.core for functions in getattr(descriptor, "functions", ()) for f in functions if f.core}
        kind = descriptor.cutoff_function.kind if hasattr(descriptor, "cutoff_function") else descriptor.cutoff_kind
        kinds = {kind} | {CORE_FORMULAS[c.removesuffix("a")] for c in cores}
        promised = min(2, *(VANISHING[kind] for kind in kinds))
        for order in range(promised + 1):
            # What is left 1e-6 A before the cutoff is at most first order in this distance: 1e-6 times a ratio of
            # derivatives of the cutoff function, below 100.
            assert edge[order].max() <= 1e-4 * np.max([d[order].max() for d in inside]), order
        for r in (r_c * (1 + 1e-12), 1.5 * r_c):  # the vector's length is only equal to r to rounding
            for order, left in enumerate(difference(r)):
                np.testing.assert_array_equal(left, 0.0, err_msg=f"order {order}")

    def test_has_nan_safe_derivatives_to_third_order(self, descriptor):
        for name, env in special_environments(descriptor).items():
            for order, values in zip((1, 2, 3, 2), derivatives(descriptor, *env), strict=True):
                assert np.isfinite(values).all(), (name, order)

    def test_second_derivatives_of_neighbours_in_line(self, descriptor):
        # cos = +-1 is an edge of the angular functions, and every perfect crystal sits on it. Differences of gradients:
        # truncation h^2 f''' / 6 and rounding eps f / h are below 1e-7 of the largest for h = 1e-4. With zeta < 2 the
        # third derivative has no bound at this edge: linear in h.
        h, v = 1e-4, _direction(2)
        listed = [f for functions in getattr(descriptor, "functions", ()) for f in functions]
        functions = [*getattr(descriptor, "g4", ()), *getattr(descriptor, "g5", ()), *listed]
        # Likewise compact functions of angles centred on 0 or 180, where the core contains x^3.
        rough = any(1 < f.zeta < 2 or getattr(f, "core", "")[:2] in ("p1", "p2") for f in functions)
        for name, (R, species, mask) in special_environments(descriptor).items():
            if not name.startswith(("in line", "opposite")):
                continue
            second = derivatives(descriptor, R, species, mask)[1]
            sides = [gradient(descriptor, R + s * h * v, species, mask) for s in (1, -1)]
            numeric = (sides[0] - sides[1]) / (2 * h)
            scale = np.abs(second).max()
            np.testing.assert_allclose(second, numeric, rtol=0, atol=(1e-3 if rough else 1e-6) * scale, err_msg=name)

    def test_derivatives_are_finite_differences(self, descriptor):
        # With what has been compiled already. Central differences with step 1e-4: truncation about 1e-8 in the first, 1e-6
        # in the second order.
        R, species, mask = environment(descriptor)
        h = 1e-4
        first, reverse, _, forward = derivatives(descriptor, R, species, mask)
        _close(first, gradient(descriptor, R, species, mask), rtol=1e-12)
        for v, second in ((_direction(2), reverse), (_direction(3), forward)):
            sides = [features_and_gradient(descriptor, R + s * h * v, species, mask) for s in (1, -1)]
            slope, numeric = ((a - b) / (2 * h) for a, b in zip(*sides, strict=True))
            slope = float(slope @ _combination(descriptor, slope.dtype))
            assert float(jnp.sum(first * v)) == pytest.approx(slope, abs=1e-7 * float(jnp.abs(first).max()))
            np.testing.assert_allclose(second, numeric, rtol=0, atol=1e-6 * np.abs(numeric).max())

    def test_vmap_is_a_loop(self, descriptor):
        batch = [environment(descriptor, seed) for seed in range(3)]
        R, species, mask = (jnp.stack(a) for a in zip(*batch, strict=True))
        mask = mask.at[1, 3:].set(False)
        both = jax.vmap(partial(features, descriptor))(R, species, mask)
        for n in range(3):
            _close(both[n], features(descriptor, R[n], species[n], mask[n]))

    def test_jit_is_eager(self, descriptor):
        env = environment(descriptor)
        _close(features(descriptor, *env), descriptor(*env, CENTRE))

    def test_type_follows_the_positions(self, descriptor):
        R, species, mask = environment(descriptor)
        assert jax.eval_shape(descriptor, R.astype(jnp.float32), species, mask, CENTRE).dtype == jnp.float32
        assert jax.eval_shape(descriptor, R, species, mask, CENTRE).dtype == jnp.float64

    def test_single_precision(self, descriptor):
        R, species, mask = environment(descriptor)
        G, g = features(descriptor, R, species, mask), gradient(descriptor, R, species, mask)
        with jax.enable_x64(False):  # as users have it
            env = (jnp.asarray(np.asarray(R), jnp.float32), jnp.asarray(np.asarray(species)), mask)
            G32, g32 = features_and_gradient(descriptor, *env)
        assert G32.dtype == g32.dtype == jnp.float32
        # Rounding 6e-8 of the input, magnified by derivatives of order 10/A, of sums over K^2 terms.
        np.testing.assert_allclose(G32, G, rtol=0, atol=3e-6 * np.abs(G).max())
        np.testing.assert_allclose(g32, g, rtol=0, atol=1e-5 * np.abs(g).max())


@partial(jax.jit, static_argnums=0)
def learned_features(descriptor, R_ij, species_j, mask, params):
    return descriptor(R_ij, species_j, mask, CENTRE, params)


@partial(jax.jit, static_argnums=0, compiler_options=ONCE)
def learned_derivatives(descriptor, R_ij, species_j, mask, params):
    """Of the combined features: the gradient with the parameters, and that of a derivative with positions (a force)."""

    def f(R, params):
        G = descriptor(R, species_j, mask, CENTRE, params)
        return jnp.sum(G * _combination(descriptor, G.dtype))

    def force(params):
        return jnp.sum(jax.grad(f)(R_ij, params) * jnp.resize(_direction(2), R_ij.shape))

    return jax.grad(f, argnums=1)(R_ij, params), jax.grad(force)(params)


class LearnedContract:
    """The promises of a descriptor with parameters; subclasses give the fixture `descriptor`."""

    pytestmark = pytest.mark.usefixtures("strict_promotion")

    def test_start_is_the_fixed_descriptor(self, descriptor):
        env = environment(descriptor)
        params = descriptor.parameters(jnp.float64)
        assert jax.tree.leaves(params)
        fixed = jax.jit(lambda R: descriptor(R, *env[1:], CENTRE))(env[0])
        _close(learned_features(descriptor, *env, params), fixed)

    def test_derivatives_with_parameters_are_finite_differences(self, descriptor):
        env, params = environment(descriptor), descriptor.parameters(jnp.float64)
        leaves, structure = jax.tree.flatten(params)
        exact = learned_derivatives(descriptor, *env, params)
        weights, h = _combination(descriptor, jnp.float64), 1e-4

        @jax.jit
        def values(params):
            G, pullback = jax.vjp(lambda R: descriptor(R, *env[1:], CENTRE, params), env[0])
            return jnp.sum(G * weights), jnp.sum(pullback(weights)[0] * _direction(2))

        for n, leaf in enumerate(leaves):
            v = np.random.default_rng(n).normal(size=leaf.shape)
            sides = [
                values(jax.tree.unflatten(structure, [*leaves[:n], leaf + s * h * v, *leaves[n + 1 :]]))
                for s in (1, -1)
            ]
            for order in range(2):
                along = np.sum(jax.tree.leaves(exact[order])[n] * v)
                scale = max(np.abs(x).max() for x in jax.tree.leaves(exact[order]))
                # Truncation h^2 f'''/6 and rounding eps f/h are below 1e-6 of the largest derivative.
                numeric = (sides[0][order] - sides[1][order]) / (2 * h)
                np.testing.assert_allclose(along, numeric, rtol=0, atol=1e-6 * scale, err_msg=f"array {n}")

    def test_has_nan_safe_derivatives_with_parameters(self, descriptor):
        params = descriptor.parameters(jnp.float64)
        for name, env in special_environments(descriptor).items():
            for leaf in jax.tree.leaves(learned_derivatives(descriptor, *env, params)):
                assert np.isfinite(leaf).all(), name

    def test_padding_with_parameters(self, descriptor):
        (R, species, mask), params = environment(descriptor), descriptor.parameters(jnp.float64)
        padded = jnp.full((2 * K, 3), jnp.nan).at[:K].set(R)
        env = padded, jnp.full(2 * K, 10**6, jnp.int32).at[:K].set(species), jnp.zeros(2 * K, bool).at[:K].set(mask)
        _close(learned_features(descriptor, *env, params), learned_features(descriptor, R, species, mask, params))
        found, expected = (
            jax.tree.leaves(learned_derivatives(descriptor, *e, params)) for e in (env, (R, species, mask))
        )
        for one, other in zip(found, expected, strict=True):
            _close(one, other, rtol=1e-12)

    def test_a_sweep_over_parameters_is_a_loop(self, descriptor):
        env, params = environment(descriptor), descriptor.parameters(jnp.float64)
        many = jax.tree.map(lambda p: jnp.stack([p, 1.1 * p, 0.7 * p]), params)
        swept = jax.jit(jax.vmap(lambda p: descriptor(*env, CENTRE, p)))(many)
        for n in range(3):
            _close(swept[n], learned_features(descriptor, *env, jax.tree.map(lambda p, n=n: p[n], many)))
        assert not np.allclose(swept[0], swept[1])

    def test_type_follows_the_positions_not_the_parameters(self, descriptor):
        R, species, mask = environment(descriptor)
        for dtype, other in ((jnp.float32, jnp.float64), (jnp.float64, jnp.float32)):
            params = descriptor.parameters(other)
            assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(other)}
            found = jax.eval_shape(lambda R, p: descriptor(R, species, mask, CENTRE, p), R.astype(dtype), params)
            assert found.dtype == dtype

    def test_what_is_learned_cannot_be_reduced_or_shared(self, descriptor):
        with pytest.raises(ValueError, match="Chosen descriptor: one that is learned cannot be reduced"):
            Chosen(descriptor, (0, 1))
        with pytest.raises(ValueError, match="Potential members"):
            Potential(descriptor, members=2)


def _close(found, expected, rtol=1e-13):
    """Equal to rounding: 1e-13 of the largest entry is some hundred roundings."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * max(np.abs(expected).max(), 1e-300))
