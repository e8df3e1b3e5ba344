import dataclasses
import json
from pathlib import Path
from typing import Literal, Protocol

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from bpjax import spec
from bpjax.errors import ConfigError, FormatError
from bpjax.spec import from_spec, from_toml, register, to_spec


class Shape(Protocol):
    size: int


@register
@dataclasses.dataclass(frozen=True)
class Ball:
    radius: float
    size: int = 1

    def __post_init__(self):
        if self.radius <= 0:
            raise ValueError(f"radius must be positive, not {self.radius}")


@register
@dataclasses.dataclass(frozen=True)
class Box:
    sides: tuple[float, float, float]
    size: int = 1


@dataclasses.dataclass(frozen=True)
class Toys:
    name: str
    first: Ball
    shape: Shape
    choice: Ball | Box | None = None
    kind: Literal["soft", "hard"] = "soft"
    layers: tuple[int, ...] = (16, 16)
    pairs: tuple[tuple[str, str], ...] = ()
    energies: dict[str, float] = dataclasses.field(default_factory=dict)
    count: int | None = None
    level: float | str = 1.0
    flag: bool = False
    folder: Path = Path("out")


PLAIN = {"name": "a", "first": {"radius": 1}, "shape": {"type": "Box", "sides": [1, 2, 3]}}

balls = st.builds(Ball, st.floats(1e-300, 1e300), st.integers())
boxes = st.builds(Box, st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3))
finite = st.floats(allow_nan=False, allow_infinity=False)
toys = st.builds(
    Toys,
    name=st.text(),
    first=balls,
    shape=balls | boxes,
    choice=st.none() | balls | boxes,
    kind=st.sampled_from(["soft", "hard"]),
    layers=st.lists(st.integers()).map(tuple),
    pairs=st.lists(st.tuples(st.text(), st.text())).map(tuple),
    energies=st.dictionaries(st.text(), finite),
    count=st.none() | st.integers(),
    level=finite | st.text(),
    flag=st.booleans(),
    folder=st.just(Path("a/b")),
)


@given(toys)
def test_round_trip_through_json(toy):
    assert from_spec(Toys, json.loads(json.dumps(to_spec(toy), allow_nan=False))) == toy


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["type", "name", "first", "radius"]), inner),
)


@given(st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Toys)] + ["type"]), plain_values))
def test_any_plain_values_give_an_object_or_a_config_error(values):
    try:
        assert isinstance(from_spec(Toys, {**PLAIN, **values}), Toys)
    except ConfigError as error:
        assert str(error).startswith("spec: ") and "\n" not in str(error)


def test_defaults_and_integers_for_floats():
    toy = from_spec(Toys, PLAIN)
    assert toy == Toys("a", Ball(1.0), Box((1.0, 2.0, 3.0)))
    assert isinstance(toy.first.radius, float)


def test_type_is_written_at_every_level():
    assert to_spec(Toys("a", Ball(1.0), Box((1.0, 2.0, 3.0))))["first"] == {"type": "Ball", "radius": 1.0, "size": 1}


def test_object_stands_for_all_registered_classes():
    assert from_spec(object, {"type": "Ball", "radius": 2.0}) == Ball(2.0)
    assert from_spec(Ball | Box, {"type": "Box", "sides": [1, 1, 1]}) == Box((1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coutn": 1}, "toys.toml: coutn: unknown option; did you mean 'count'? allowed: name, first, "),
        ({"first": {"radios": 1}}, "toys.toml: first.radios: unknown option; did you mean 'radius'? allowed: rad"),
        ({"first": {}}, "toys.toml: first.radius: missing; Ball needs it"),
        ({"first": {"radius": "x"}}, "toys.toml: first.radius: must be a number, got 'x'"),
        ({"first": {"radius": True}}, "toys.toml: first.radius: must be a number, got true"),
        ({"first": {"radius": float("nan")}}, "toys.toml: first.radius: must be a finite number, got nan"),
        ({"first": {"radius": -1.0}}, "toys.toml: first: radius must be positive, not -1.0"),
        ({"first": 3}, "toys.toml: first: must be a table, got 3"),
        ({"first": {"type": "Box", "radius": 1}}, "toys.toml: first.type: unknown choice 'Box'; allowed: Ball"),
        ({"shape": {"sides": [1, 2, 3]}}, "toys.toml: shape.type: missing; allowed: "),
        ({"shape": {"type": "Bal"}}, "toys.toml: shape.type: unknown choice 'Bal'; did you mean 'Ball'? allowed: "),
        ({"shape": {"type": "Box", "sides": [1, 2]}}, "toys.toml: shape.sides: must have 3 entries, got 2"),
        ({"choice": {"type": "Box", "sides": [1, 2, "c"]}}, "toys.toml: choice.sides[2]: must be a number, got 'c'"),
        ({"choice": 1}, "toys.toml: choice: must be a table or nothing, got 1"),
        ({"kind": "sotf"}, "toys.toml: kind: unknown choice 'sotf'; did you mean 'soft'? allowed: soft, hard"),
        ({"layers": 3}, "toys.toml: layers: must be a list, got 3"),
        ({"layers": [3, 2.5]}, "toys.toml: layers[1]: must be an integer, got 2.5"),
        ({"pairs": [["a", "b"], ["a"]]}, "toys.toml: pairs[1]: must have 2 entries, got 1"),
        ({"energies": {"Si": "low"}}, "toys.toml: energies.Si: must be a number, got 'low'"),
        ({"count": "many"}, "toys.toml: count: must be an integer or nothing, got 'many'"),
        ({"flag": 1}, "toys.toml: flag: must be true or false, got 1"),
        ({"name": None}, "toys.toml: name: must be text, got nothing"),
        ({"folder": 1}, "toys.toml: folder: must be a path, got 1"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ConfigError) as caught:
        from_spec(Toys, {**PLAIN, **change}, where="toys.toml")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("value", [float("inf"), np.zeros(3), len])
def test_what_cannot_be_stored_is_refused(value):
    with pytest.raises(ConfigError, match=r"name: .*cannot be stored"):
        to_spec({"name": value})


def test_numpy_scalars_become_numbers():
    plain = to_spec((np.float64(0.1), np.int32(3), np.bool_(True)))
    assert plain == [0.1, 3, True] and [type(x) for x in plain] == [float, int, bool]


def test_register_refuses_strangers_and_namesakes(monkeypatch):
    monkeypatch.setattr(spec, "_registry", dict(spec.registered()))
    with pytest.raises(TypeError, match="not a dataclass"):
        register(int)
    namesake = dataclasses.make_dataclass("Ball", ["a"])
    namesake.__module__ = "elsewhere"
    with pytest.raises(TypeError, match="already registered"):
        register(namesake)
    with pytest.raises(TypeError, match="must not be called 'type'"):
        register(dataclasses.make_dataclass("Other", ["type"]))
    register(Ball)  # its own class again, as after a reload


def test_toml_file(tmp_path):
    path = tmp_path / "toys.toml"
    path.write_text('name = "a"\nlayers = [3]\n[first]\nradius = 2\n[shape]\ntype = "Ball"\nradius = 1.5\n')
    assert from_toml(Toys, path) == Toys("a", Ball(2.0), Ball(1.5), layers=(3,))


def test_bad_toml_files_are_named(tmp_path):
    path = tmp_path / "toys.toml"
    with pytest.raises(FormatError, match=r"toys\.toml: no such file"):
        from_toml(Toys, path)
    path.write_text('name = "a"\nfirst = \n')
    with pytest.raises(FormatError, match=r"toys\.toml: line 2: not valid TOML: Invalid value$"):
        from_toml(Toys, path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="not a text file"):
        from_toml(Toys, path)
    path.write_text('nam = "a"\n')
    with pytest.raises(ConfigError, match=r"toys\.toml: nam: unknown option; did you mean 'name'"):
        from_toml(Toys, path)


def test_none_in_toml():
    from bpjax.training import LikelihoodLoss

    assert from_spec(LikelihoodLoss, {"stress": "none"}).stress is None
    with pytest.raises(ConfigError, match="energy_per"):
        from_spec(LikelihoodLoss, {"energy_per": "none"})
