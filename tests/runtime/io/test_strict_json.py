"""JSON that other parsers take, and that would mean two things to two readers."""

from __future__ import annotations

import json
import random

import pytest

from aigc_runtime.errors import BundleError, ConfigError
from aigc_runtime.io.strict_json import MAX_DEPTH, loads_strict, wide_encoding


@pytest.mark.parametrize(
    "text", ['{"a": [1, -2.5, "x\\"}", null, true]}', "0", '"\\u00e9"', "[]", "[" * MAX_DEPTH + "]" * MAX_DEPTH]
)
def test_plain_json_reads_as_the_standard_library_reads_it(text: str) -> None:
    assert loads_strict(text.encode(), what="x") == json.loads(text)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": 1, "a": 2}', "duplicate key 'a'"),
        (b'{"b": {"a": 1, "a": 1}}', "duplicate key 'a'"),
        (b"NaN", "NaN is not a JSON number"),
        (b"[Infinity]", "Infinity is not"),
        (b"[-Infinity]", "-Infinity is not"),
        (b"1e400", "1e400 is too large"),
        (b"1" * 20, "an integer of 20 digits"),
        (b"-" + b"9" * 5000, "an integer of 5001 digits"),
        (b"[" * (MAX_DEPTH + 1), "nested deeper than 32"),
        (b'{"a":' * 100_000, "nested deeper than 32"),
        (b"\xff\xfe", "it is in UTF-16"),
        (b"\xff\xfd", "codec can't decode"),
        (b"\xef\xbb\xbf{}", "not valid"),
        (b"", "Expecting value"),
        (b"{} {}", "Extra data"),
        (b'{"a": 01}', "not valid"),
        (b"{'a': 1}", "not valid"),
        (b'{"a": 1,}', "not valid"),
        (b'"\x00"', "control character"),
    ],
)
def test_everything_else_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BundleError, match="thing is not valid") as caught:
        loads_strict(data, what="thing")
    assert reason in str(caught.value)
    with pytest.raises(ConfigError):
        loads_strict(data, what="thing", error=ConfigError)


def test_brackets_inside_strings_do_not_count_as_depth() -> None:
    text = json.dumps(["[" * 500, '\\"' + "{" * 500])
    assert loads_strict(text.encode(), what="x") == json.loads(text)


def test_random_bytes_never_raise_anything_else() -> None:
    rng = random.Random(0)
    alphabet = b'{}[]",:0123456789.eE+-\\ntrufalsNI \xc3\xa9'
    for _ in range(20_000):
        data = bytes(rng.choice(alphabet) for _ in range(rng.randrange(24)))
        try:
            value = loads_strict(data, what="x")
        except BundleError:
            continue
        assert value == json.loads(data)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_wide_encodings_are_named(encoding: str) -> None:
    data = '{"a": "é"}'.encode(encoding)
    for by_hand in (False, True):
        with pytest.raises(BundleError, match=f"thing is not valid: it is in {encoding[:6].upper()}"):
            loads_strict(data, what="thing", written_by_hand=by_hand)
    assert wide_encoding('{"a": "é"}'.encode()) == ""


def test_a_byte_order_mark_is_taken_from_what_users_write_alone() -> None:
    data = b'\xef\xbb\xbf{"a": 1}'
    assert loads_strict(data, what="config.json", written_by_hand=True) == {"a": 1}
    with pytest.raises(BundleError, match=r"manifest\.json is not valid"):
        loads_strict(data, what="manifest.json")
    with pytest.raises(BundleError, match="save it as JSON in UTF-8"):
        loads_strict(b"\xef\xbb\xbf\xef\xbb\xbf{}", what="config.json", written_by_hand=True)
