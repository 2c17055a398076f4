"""Headers of GGUF files: what is wrong is said by name, and nothing is read that is not there."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc

import numpy as np
import pytest
from tests.models.weights.gguf_bytes import described, floats, number, string, text, whole

from aigc_models.weights.gguf_header import GgufHeader, read_header
from aigc_runtime.errors import CheckpointError

GOOD = whole(
    [
        string("general.architecture", "llama"),
        number("llama.block_count", 2),
        text("llama.eps") + struct.pack("<If", 6, 1e-5),
        text("list") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("é"),
        text("numbers") + struct.pack("<IIQ3i", 9, 5, 3, 1, -2, 3),
        text("flags") + struct.pack("<IIQ2B", 9, 7, 2, 1, 0),
        text("flag") + struct.pack("<IB", 7, 1),
        text("large") + struct.pack("<IQ", 10, 2**40),
    ],
    [described("b", (2, 3), offset=32), described("a", (3,))],
    floats(1, 2, 3) + bytes(20) + floats(*range(6)),
)


def read(data: bytes) -> GgufHeader:
    return read_header(io.BytesIO(data), len(data), what="model.gguf")


def refused(data: bytes, match: str) -> CheckpointError:
    with pytest.raises(CheckpointError, match=match) as caught:
        read(data)
    assert caught.value.hint
    return caught.value


def test_values_and_tensors_are_read() -> None:
    header = read(GOOD)
    numbers = header.values.pop("numbers")
    assert header.values == {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.eps": 1e-5,
        "list": ["a", "é"],
        "flags": [True, False],
        "flag": True,
        "large": 2**40,
    }
    np.testing.assert_array_equal(numbers, [1, -2, 3])
    assert {name: (t.shape, t.last - t.first) for name, t in header.tensors.items()} == {
        "a": ((3,), 12),
        "b": ((3, 2), 24),
    }
    assert list(header.tensors) == ["a", "b"]  # in the order of their bytes
    assert GOOD.startswith(header.data)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "not a GGUF file"),
        (b"GG", "not a GGUF file"),
        (b"PK\x03\x04" + bytes(100), "not a GGUF file"),
        (b"GGUF", "its version ends at byte 8 of 4"),
        (whole([], [], version=1), "version 1"),
        (whole([], [], version=4), "version 4"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 3.*big-endian"),
        (whole([], [], counts=(2**63, 0)), "cut short"),
        (whole([], [], counts=(0, 2**64 - 1)), "cut short"),
        (whole([number("a", 1), number("a", 2)], []), "the key 'a' is there twice"),
        (whole([text("a") + struct.pack("<I", 13)], []), "of type 13"),
        (whole([text("a") + struct.pack("<IB", 7, 2)], []), "the truth value 2"),
        (whole([text("a") + struct.pack("<IIQ", 9, 9, 1)], []), "array of type 9"),
        (whole([text("a") + struct.pack("<IIQ", 9, 0, 2**62)], []), "the value of 'a' ends at"),
        (whole([text("a") + struct.pack("<IIQ", 9, 8, 2**62)], []), "the value of 'a' ends at"),
        (whole([text("a") + struct.pack("<IQ", 8, 2**62)], []), "the value of 'a' has"),
        (whole([struct.pack("<Q", 2**20)], [], counts=(0, 1)), "a key has 1,048,576 bytes"),
        (whole([struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<II", 4, 1)], []), "not UTF-8"),
        (whole([number("general.alignment", 3)], []), "general.alignment is 3"),
        (whole([number("general.alignment", 0)], []), "general.alignment is 0"),
        (whole([string("general.alignment", "x")], []), "general.alignment is 'x'"),
        (whole([], [described("a", (1,)), described("a", (1,))], bytes(64)), "tensor 'a' is there twice"),
        (whole([], [described("a", (1,) * 5)], bytes(64)), "5 dimensions"),
        (whole([], [described("a", ())], bytes(64)), r"has the shape \[\]"),
        (whole([], [described("a", (0, 4))], bytes(64)), r"has the shape \[4, 0\]"),
        (whole([], [described("a", (33,), kind=8)], bytes(64)), "type Q8_0 has the shape"),
        (whole([], [described("a", (2**63, 2**63))], bytes(64)), "cut short: tensor 'a'"),
        (whole([], [described("a", (4,), offset=2**63)], bytes(64)), "cut short: tensor 'a'"),
        (whole([], [described("a", (32,), kind=20)], bytes(64)), "type IQ4_NL"),
        (whole([], [described("a", (4,)), described("b", (4,), offset=12)], bytes(64)), "'b' overlaps tensor 'a'"),
        (whole([], [described("a", (4,)), described("b", (4,))], bytes(64)), "'b' overlaps tensor 'a'"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, match: str) -> None:
    refused(data, match)


def test_every_beginning_of_a_file_is_refused() -> None:
    for end in range(len(GOOD)):
        refused(GOOD[:end], "cut short|not a GGUF file")


def test_every_changed_byte_gives_a_header_or_an_error_of_ours() -> None:
    end, accepted = len(read(GOOD).data), 0
    for at in range(end):
        for flip in (1, 0x80, 0xFF):
            data = bytearray(GOOD)
            data[at] ^= flip
            with contextlib.suppress(CheckpointError):
                read(bytes(data))
                accepted += 1
    assert accepted < 3 * end  # some are refused


def test_many_truth_values_are_read_at_once() -> None:
    class Counted(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.reads += 1
            return super().read(size)

    count = 100_000
    data = whole([text("a") + struct.pack("<IIQ", 9, 7, count) + b"\1" + bytes(count - 1)], [])
    file = Counted(data)
    header = read_header(file, len(data), what="model.gguf")
    assert file.reads < 20  # and not one for each
    assert (header.values["a"][:2], len(header.values["a"])) == ([True, False], count)
    refused(whole([text("a") + struct.pack("<IIQ", 9, 7, 3) + b"\0\2\1"], []), "the truth value 2")


def test_a_count_that_lies_takes_no_memory() -> None:
    tracemalloc.start()
    refused(whole([text("a") + struct.pack("<IIQ", 9, 12, 2**60)], [], bytes(1000)), "ends at")
    refused(whole([], [described("a", (2**30, 2**20))], bytes(1000)), "cut short")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
