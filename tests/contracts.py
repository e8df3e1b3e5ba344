"""What every descriptor must do, as tests to inherit.

A test module of a descriptor subclasses `DescriptorContract` and gives a fixture `descriptor` that runs over its examples;
every example is then held to the same promises. All environments have the same number of slots, so that little is compiled, four
programs: values with the gradient in double and in single precision, higher derivatives, and all other shapes at once.

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
from bpjax.system import Environment
from tests import quick_compiler

K = 7
"""Neighbours of the environments."""

SLOTS = 2 * K
"""Slots of the environments, half of them padding."""

VANISHING = {"hard": -1, "cosine": 1, "tanh3": 2, "tanh3n": 2, "exp": 4, "poly1": 1, "poly2": 2, "poly3": 3, "poly4": 4}
"""Derivatives of each cutoff function that go to zero at the cutoff radius, counted independently of the package."""


MARKS = [pytest.mark.usefixtures("strict_promotion"), pytest.mark.as_users]

CENTRE = 0
"""Species of the atom in the middle."""


def _direction(n):
    """Fixed directions without any symmetry, so that no derivative cancels by accident; padding stays."""
    v = np.zeros((SLOTS, 3))
    v[:K] = np.random.default_rng(n).normal(size=(K, 3))
    return v / np.linalg.norm(v)


def _combination(descriptor, dtype):
    return jnp.asarray(np.random.default_rng(1).uniform(0.5, 1.5, descriptor.size), dtype)


def _combined(descriptor, R_ij, species_j, mask):
    """One number that depends on every feature."""
    G = descriptor(Environment(R_ij, species_j, mask), CENTRE)
    return jnp.sum(G * _combination(descriptor, G.dtype))


@partial(jax.jit, static_argnums=0)
def features_and_gradient(descriptor, R_ij, species_j, mask):
    """All features, and the gradient of the combined ones, compiled together."""
    G, pullback = jax.vjp(lambda R: descriptor(Environment(R, species_j, mask), CENTRE), R_ij)
    return G, pullback(_combination(descriptor, G.dtype))[0]


def features(descriptor, R_ij, species_j, mask):
    return np.asarray(features_and_gradient(descriptor, R_ij, species_j, mask)[0])


def gradient(descriptor, R_ij, species_j, mask):
    return np.asarray(features_and_gradient(descriptor, R_ij, species_j, mask)[1])


@partial(jax.jit, static_argnums=0)
def _other_shapes(descriptor, bare, empty, several):
    def one(*env):
        return descriptor(Environment(*env), CENTRE)

    return one(*bare), one(*empty), jax.vmap(one)(*several)


def other_shapes(descriptor):
    """Features of K neighbours in as many slots, of an atom without any slot, and of `several` at once, from one program."""
    empty = np.zeros((0, 3)), np.zeros(0, np.int32), np.zeros(0, bool)
    return _other_shapes(descriptor, neighbours(descriptor), empty, several(descriptor))


def several(descriptor):
    """Three environments, stacked, one of them with few neighbours."""
    R, species, mask = (np.stack(a) for a in zip(*(ordinary(descriptor, seed) for seed in range(3)), strict=True))
    mask[1, 3:] = False
    return R, species, mask


@partial(jax.jit, static_argnums=0, compiler_options=quick_compiler.OPTIONS)
def derivatives(descriptor, R_ij, species_j, mask):
    """Of the combined features: all first derivatives, second ones along a direction, third ones along two.

    The second ones are by reverse mode twice, as in training. Last those along the other direction, by forward mode over reverse.
    """

    def first_and_second(R):
        first, pullback = jax.vjp(jax.grad(lambda R: _combined(descriptor, R, species_j, mask)), R)
        return first, pullback(jnp.asarray(_direction(2)))[0]

    (first, second), (forward, third) = jax.jvp(first_and_second, (R_ij,), (jnp.asarray(_direction(3)),))
    return first, second, third, forward


def neighbours(descriptor, seed=0, slots=K, farthest=0.9):
    """At random directions, between 0.3 and `farthest` of the cutoff, of all elements in turn; as arrays of NumPy."""
    random = np.random.default_rng(seed)
    u = random.normal(size=(slots, 3))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    r = random.uniform(0.3, farthest, slots) * descriptor.cutoff
    species = np.arange(slots) % len(descriptor.elements)
    return u * r[:, None], species.astype(np.int32), np.ones(slots, bool)


def environment(descriptor, seed=0, slots=K, farthest=0.9):
    """The same as arrays of JAX, for tests that call descriptors themselves."""
    return tuple(map(jnp.asarray, neighbours(descriptor, seed, slots, farthest)))


def padded(env, at=slice(K), garbage=0.0):
    """An environment in the slots of all, with `garbage` in those that are free."""
    R, species, mask = np.full((SLOTS, 3), garbage), np.full(SLOTS, 10**6, np.int32), np.zeros(SLOTS, bool)
    R[at], species[at], mask[at] = env
    return R, species, mask


def ordinary(descriptor, seed=0):
    """K neighbours, and padding after them."""
    return padded(neighbours(descriptor, seed))


def changed(array, *changes):
    """A copy with other values in some places: (place, value) each."""
    array = array.copy()
    for place, value in changes:
        array[place] = value
    return array


def rotations():
    """A rotation, a reflection, and the inversion."""
    Q, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    Q *= np.sign(np.linalg.det(Q))
    return {"rotation": Q, "reflection": Q @ np.diag([1.0, 1.0, -1.0]), "inversion": -np.eye(3)}


def special_environments(descriptor):
    """Environments where a formula may divide by zero or meet an edge: name -> (R_ij, species_j, mask)."""
    R, species, mask = ordinary(descriptor)
    r_c, last = descriptor.cutoff, K - 1
    u = R[last] / np.linalg.norm(R[last])
    out = {"ordinary": (R, species, mask), "no neighbours": (R, species, np.zeros_like(mask))}
    for name, r in {
        "at the cutoff": r_c,
        "just inside": r_c * (1 - 1e-9),
        "one rounding inside": np.nextafter(r_c, 0),
        "just outside": np.nextafter(r_c, 9e9),
        "far outside": 3 * r_c,
    }.items():
        out[name] = changed(R, (last, r * u)), species, mask
    for name, factor in {
        "opposite": -1.0,
        "in line": 1.7,
    }.items():  # cos = -1, +1; several directions round differently
        pairs = [changed(R, (1, R[0] * factor)), changed(R, ([1, 4], R[[0, 3]] * factor))]
        axis = np.array([0.4 * r_c, 0.0, 0.0])
        pairs += [changed(R, (0, a), (1, a * factor)) for a in (axis, axis[::-1])]
        for n, Rn in enumerate(pairs):
            out[f"{name} {n}"] = Rn, species, mask
    # Two neighbours exactly r_c apart.
    apart = changed(R, (0, [r_c / 2, 0.1, 0.0]), (1, [-r_c / 2, 0.1, 0.0]))
    out["pair at the cutoff"] = apart, species, mask
    dead = changed(mask, ([2, 3], False))
    out["masked slots coincide"] = changed(R, (2, R[3])), species, dead
    out["masked slot on a neighbour"] = changed(R, (2, R[0])), species, dead
    out["masked slot on the centre"] = changed(R, ([2, 3], 0.0)), species, dead
    return out


class DescriptorContract:
    """The promises; subclasses give the fixture `descriptor`."""

    pytestmark = MARKS

    def test_satisfies_the_protocol(self, descriptor):
        assert isinstance(descriptor, Descriptor)
        assert hash(descriptor) == hash(from_spec(type(descriptor), to_spec(descriptor)))

    def test_size_and_labels_agree(self, descriptor):
        G = features(descriptor, *ordinary(descriptor))
        assert G.shape == (descriptor.size,)
        assert len(descriptor.labels) == len(set(descriptor.labels)) == descriptor.size

    def test_every_feature_sees_something(self, descriptor):
        G = np.stack([features(descriptor, *ordinary(descriptor, seed)) for seed in range(3)])
        assert (G.std(axis=0) > 0).all()

    def test_spec_round_trip_through_json(self, descriptor):
        plain = json.loads(json.dumps(to_spec(descriptor), allow_nan=False))
        assert from_spec(type(descriptor), plain) == descriptor

    def test_permutation_of_neighbours(self, descriptor):
        order = np.random.default_rng(0).permutation(K)
        env = neighbours(descriptor)
        # Only the order of summation changes.
        turned = padded([x[order] for x in env])
        _close(features(descriptor, *turned), features(descriptor, *padded(env)))

    @pytest.mark.parametrize("name", rotations())
    def test_rotation_and_reflection(self, descriptor, name):
        R, species, mask = ordinary(descriptor)
        Q = rotations()[name]
        _close(features(descriptor, R @ Q.T, species, mask), features(descriptor, R, species, mask))
        _close(gradient(descriptor, R @ Q.T, species, mask), gradient(descriptor, R, species, mask) @ Q.T)

    @pytest.mark.parametrize("garbage", [np.nan, 0.0, np.inf, 1e300], ids=str)
    def test_padding(self, descriptor, garbage):
        env = neighbours(descriptor)
        slots = np.random.default_rng(1).permutation(SLOTS)[:K]
        spread, first = padded(env, slots, garbage), padded(env)
        # Zeros are added, in another order.
        _close(features(descriptor, *spread), features(descriptor, *first))
        g = gradient(descriptor, *spread)
        _close(g[slots], gradient(descriptor, *first)[:K])
        np.testing.assert_array_equal(np.delete(g, slots, axis=0), 0.0)

    def test_without_any_padding(self, descriptor):
        # The number of slots is not part of the result.
        _close(other_shapes(descriptor)[0], features(descriptor, *ordinary(descriptor)))

    def test_masked_neighbour_is_no_neighbour(self, descriptor):
        R, species, mask = neighbours(descriptor)
        few = changed(mask, ([1, 5], False))
        order = np.argsort(~few, kind="stable")
        far = changed(R, ([1, 5], 50.0 * R[[1, 5]]))
        found = features(descriptor, *padded((far, species, mask)))
        _close(found, features(descriptor, *padded((R[order], species[order], few[order]))))

    def test_isolated_atom_has_finite_features_that_never_change(self, descriptor):
        R, species, mask = ordinary(descriptor)
        nothing = np.zeros_like(mask)
        G = features(descriptor, R, species, nothing)
        assert np.isfinite(G).all()
        np.testing.assert_array_equal(G, features(descriptor, 2 * R, species, nothing))
        np.testing.assert_array_equal(gradient(descriptor, R, species, nothing), 0.0)

    def test_isolated_atom_without_any_slot(self, descriptor):
        R, species, mask = ordinary(descriptor)
        isolated = features(descriptor, R, species, np.zeros_like(mask))
        # Two programs, of which one may add up in another order: the last digit of a double.
        np.testing.assert_allclose(other_shapes(descriptor)[1], isolated, rtol=1e-15)

    def test_goes_smoothly_to_zero_at_the_cutoff(self, descriptor):
        R, species, mask = ordinary(descriptor)
        r_c, last = descriptor.cutoff, K - 1
        u = R[last] / np.linalg.norm(R[last])

        def difference(r):
            """What the last neighbour at distance r adds to values, first and second derivatives."""
            out = []
            for m in (mask, changed(mask, (last, False))):
                env = changed(R, (last, r * u)), species, m
                out.append((features(descriptor, *env), *derivatives(descriptor, *env)[:2]))
            return [np.abs(np.asarray(a) - b) for a, b in zip(*out, strict=True)]

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
            second = np.asarray(derivatives(descriptor, R, species, mask)[1])
            sides = [gradient(descriptor, R + s * h * v, species, mask) for s in (1, -1)]
            numeric = (sides[0] - sides[1]) / (2 * h)
            scale = np.abs(second).max()
            np.testing.assert_allclose(second, numeric, rtol=0, atol=(1e-3 if rough else 1e-6) * scale, err_msg=name)

    def test_derivatives_are_finite_differences(self, descriptor):
        # With what has been compiled already. Central differences with step 1e-4: truncation about 1e-8 in the first, 1e-6
        # in the second order.
        R, species, mask = ordinary(descriptor)
        h = 1e-4
        first, reverse, _, forward = map(np.asarray, derivatives(descriptor, R, species, mask))
        _close(first, gradient(descriptor, R, species, mask), rtol=1e-12)
        weights = np.asarray(_combination(descriptor, jnp.float64))
        for v, second in ((_direction(2), reverse), (_direction(3), forward)):
            sides = [map(np.asarray, features_and_gradient(descriptor, R + s * h * v, species, mask)) for s in (1, -1)]
            slope, numeric = ((a - b) / (2 * h) for a, b in zip(*sides, strict=True))
            assert np.sum(first * v) == pytest.approx(slope @ weights, abs=1e-7 * np.abs(first).max())
            np.testing.assert_allclose(second, numeric, rtol=0, atol=1e-6 * np.abs(numeric).max())

    def test_vmap_is_a_loop(self, descriptor):
        found = other_shapes(descriptor)[2]
        for n, env in enumerate(zip(*several(descriptor), strict=True)):
            _close(found[n], features(descriptor, *env))

    def test_jit_is_eager(self, descriptor):
        env = ordinary(descriptor)
        _close(features(descriptor, *env), descriptor(Environment(*map(jnp.asarray, env)), CENTRE))

    def test_type_follows_the_positions(self, descriptor):
        env = Environment(*ordinary(descriptor))
        single = env._replace(R_ij=env.R_ij.astype(np.float32))
        assert jax.eval_shape(descriptor, single, CENTRE).dtype == jnp.float32
        assert jax.eval_shape(descriptor, env, CENTRE).dtype == jnp.float64

    def test_single_precision(self, descriptor):
        R, species, mask = ordinary(descriptor)
        G, g = features(descriptor, R, species, mask), gradient(descriptor, R, species, mask)
        with jax.enable_x64(False):  # as users have it
            G32, g32 = features_and_gradient(descriptor, R.astype(np.float32), species, mask)
        assert G32.dtype == g32.dtype == jnp.float32
        # Rounding 6e-8 of the input, magnified by derivatives of order 10/A, of sums over K^2 terms.
        np.testing.assert_allclose(G32, G, rtol=0, atol=3e-6 * np.abs(G).max())
        np.testing.assert_allclose(g32, g, rtol=0, atol=1e-5 * np.abs(g).max())


def _combined_and_force(descriptor, R_ij, species_j, mask, params):
    """Of the combined features: the value, and the derivative along a direction; and all features."""

    def combined(R):
        G = descriptor(Environment(R, species_j, mask), CENTRE, params)
        return jnp.sum(G * _combination(descriptor, G.dtype)), G

    (value, G), gradient = jax.value_and_grad(combined, has_aux=True)(R_ij)
    return (value, jnp.sum(gradient * _direction(2)[: len(gradient)])), G


@partial(jax.jit, static_argnums=0)
def learned_values(descriptor, R_ij, species_j, mask, params):
    return _combined_and_force(descriptor, R_ij, species_j, mask, params)


@partial(jax.jit, static_argnums=0, compiler_options=quick_compiler.OPTIONS)
def learned_derivatives(descriptor, R_ij, species_j, mask, params):
    """With the parameters, of the combined features and of their derivative along a direction (a force)."""
    return jax.jacrev(lambda p: _combined_and_force(descriptor, R_ij, species_j, mask, p)[0])(params)


@partial(jax.jit, static_argnums=0)
def swept(descriptor, R_ij, species_j, mask, params):
    return jax.vmap(lambda p: descriptor(Environment(R_ij, species_j, mask), CENTRE, p))(params)


class LearnedContract:
    """The promises of a descriptor with parameters; subclasses give the fixture `descriptor`."""

    pytestmark = MARKS

    def test_start_is_the_fixed_descriptor(self, descriptor):
        params = descriptor.parameters(jnp.float64)
        assert jax.tree.leaves(params)
        _close(learned_values(descriptor, *ordinary(descriptor), params)[1], other_shapes(descriptor)[0])

    def test_derivatives_with_parameters_are_finite_differences(self, descriptor):
        env, params = ordinary(descriptor), jax.tree.map(np.asarray, descriptor.parameters(jnp.float64))
        leaves, structure = jax.tree.flatten(params)
        exact, h = [jax.tree.leaves(d) for d in learned_derivatives(descriptor, *env, params)], 1e-4
        for n, leaf in enumerate(leaves):
            v = np.random.default_rng(n).normal(size=leaf.shape)
            sides = []
            for s in (1, -1):
                moved = jax.tree.unflatten(structure, [*leaves[:n], leaf + s * h * v, *leaves[n + 1 :]])
                sides.append(learned_values(descriptor, *env, moved)[0])
            for order in range(2):
                along = np.sum(exact[order][n] * v)
                scale = max(np.abs(x).max() for x in exact[order])
                # Truncation h^2 f'''/6 and rounding eps f/h are below 1e-6 of the largest derivative.
                numeric = (sides[0][order] - sides[1][order]) / (2 * h)
                np.testing.assert_allclose(along, numeric, rtol=0, atol=1e-6 * scale, err_msg=f"array {n}")

    def test_has_nan_safe_derivatives_with_parameters(self, descriptor):
        params = descriptor.parameters(jnp.float64)
        for name, env in special_environments(descriptor).items():
            for leaf in jax.tree.leaves(learned_derivatives(descriptor, *env, params)):
                assert np.isfinite(leaf).all(), name

    def test_padding_with_parameters(self, descriptor):
        env, params = neighbours(descriptor), descriptor.parameters(jnp.float64)
        slots = np.random.default_rng(1).permutation(SLOTS)[:K]
        spread, first = padded(env, slots, np.nan), padded(env)
        # The direction of the force is that of the slots: the neighbours that move are not the same.
        G, expected = (learned_values(descriptor, *e, params)[1] for e in (spread, first))
        _close(G, expected)
        # The same direction where the neighbours come first, with any number of free slots after them.
        with_garbage, unpadded = (
            jax.tree.leaves(learned_derivatives(descriptor, *e, params)) for e in (padded(env, garbage=np.nan), env)
        )
        for one, other in zip(with_garbage, unpadded, strict=True):
            _close(one, other, rtol=1e-12)

    def test_a_sweep_over_parameters_is_a_loop(self, descriptor):
        env, params = ordinary(descriptor), jax.tree.map(np.asarray, descriptor.parameters(jnp.float64))
        many = jax.tree.map(lambda p: np.stack([p, 1.1 * p, 0.7 * p]), params)
        found = swept(descriptor, *env, many)
        for n in range(3):
            _close(found[n], learned_values(descriptor, *env, jax.tree.map(lambda p, n=n: p[n], many))[1])
        assert not np.allclose(found[0], found[1])

    def test_type_follows_the_positions_not_the_parameters(self, descriptor):
        R, species, mask = neighbours(descriptor)
        for dtype, other in ((jnp.float32, jnp.float64), (jnp.float64, jnp.float32)):
            params = descriptor.parameters(other)
            assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(other)}
            env = Environment(R.astype(dtype), species, mask)
            found = jax.eval_shape(descriptor, env, jnp.int32(CENTRE), params)
            assert found.dtype == dtype

    def test_what_is_learned_cannot_be_reduced_or_shared(self, descriptor):
        with pytest.raises(ValueError, match="Chosen descriptor: one that is learned cannot be reduced"):
            Chosen(descriptor, (0, 1))
        with pytest.raises(ValueError, match="Potential members"):
            Potential(descriptor, members=2)


def _close(found, expected, rtol=1e-13):
    """Equal to rounding: 1e-13 of the largest entry is some hundred roundings."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * max(np.abs(expected).max(), 1e-300))
