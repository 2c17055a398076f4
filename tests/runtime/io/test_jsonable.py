"""Dataclasses to JSON and back: nothing is guessed, converted or left out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from aigc_runtime.errors import BundleError, ConfigError
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.io.jsonable import from_json, to_json


@dataclass(frozen=True)
class Inner:
    n: int

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ConfigError("n is negative", hint="use 0 or more")


@dataclass(frozen=True)
class Outer:
    text: str
    number: float
    flag: bool
    maybe: int | None
    kind: Literal["a", "b"]
    many: tuple[Inner, ...]
    pair: tuple[int, str]
    table: dict[str, int | str]
    free: Any


VALUE = Outer("é", 0.5, True, None, "b", (Inner(1), Inner(2)), (3, "x"), {"k": 1, "l": "m"}, {"deep": [1]})


def test_round_trip_through_text() -> None:
    plain = json.loads(json.dumps(to_json(VALUE)))
    assert plain["many"] == [{"n": 1}, {"n": 2}]
    assert from_json(Outer, plain) == VALUE


def test_an_integer_is_a_float_but_not_the_other_way_round() -> None:
    assert from_json(Outer, {**to_json(VALUE), "number": 2}).number == 2.0
    with pytest.raises(BundleError, match=r"\$\.many\[0\]\.n is the number 1\.0, expected int"):
        from_json(Outer, {**to_json(VALUE), "many": [{"n": 1.0}]})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("text", 1, r"\$\.text is the number 1, expected str"),
        ("text", None, r"\$\.text is null, expected str"),
        ("number", "0.5", r"\$\.number is a string, expected float"),
        ("number", True, r"\$\.number is a boolean, expected float"),
        ("flag", 1, r"\$\.flag is the number 1, expected bool"),
        ("maybe", True, r"\$\.maybe is a boolean, expected int"),
        ("maybe", 2**53 + 1, r"\$\.maybe is 9007199254740993, beyond 2\*\*53"),
        ("kind", "c", r"\$\.kind is 'c'\nvalid: a, b"),
        ("kind", True, r"\$\.kind is True"),
        ("many", {}, r"\$\.many is an object, expected a list"),
        ("many", [1], r"\$\.many\[0\] is the number 1, expected an object"),
        ("many", [{"n": 1, "m": 2}], r"\$\.many\[0\]\.m is not a known field\nknown: n"),
        ("many", [{"n": 1}, {}], r"\$\.many\[1\]\.n is missing"),
        ("many", [{"n": -1}], r"\$\.many\[0\]: n is negative\nuse 0 or more"),
        ("pair", [1], r"\$\.pair has 1 entries, expected 2"),
        ("pair", [1, 2], r"\$\.pair\[1\] is the number 2, expected str"),
        ("table", [], r"\$\.table is a list, expected an object"),
        ("table", {"k": 1.5}, r"\$\.table\.k is the number 1\.5, expected one of"),
        ("table", {"k": True}, r"\$\.table\.k is a boolean"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(field: str, value: object, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        from_json(Outer, {**to_json(VALUE), field: value})


def test_missing_and_unknown_fields() -> None:
    plain = to_json(VALUE)
    with pytest.raises(BundleError, match=r"\$\.extra is not a known field"):
        from_json(Outer, {**plain, "extra": 1})
    del plain["flag"]
    with pytest.raises(BundleError, match=r"\$\.flag is missing\nknown: "):
        from_json(Outer, plain)
    with pytest.raises(ConfigError, match=r"config is a list, expected an object"):
        from_json(Outer, [], where="config", error=ConfigError)


def test_all_missing_and_all_unknown_fields_are_told_at_once() -> None:
    plain = to_json(VALUE)
    for name in ("flag", "kind", "many"):
        del plain[name]
    with pytest.raises(BundleError, match=r"^\$\.(flag|kind|many), \w+, \w+ are missing\nknown: .*flag"):
        from_json(Outer, plain)
    with pytest.raises(BundleError, match=r"^\$\.extra, other are not known fields\nknown: "):
        from_json(Outer, {**to_json(VALUE), "extra": 1, "other": 2})
    schedule = to_json(ScheduleConfig())
    for name in ("beta_start", "beta_end", "prediction_type"):
        del schedule[name]
    with pytest.raises(ConfigError, match=r"^schedule\.beta_start, beta_end, prediction_type are missing\nknown: num_"):
        from_json(ScheduleConfig, schedule, where="schedule", error=ConfigError)
