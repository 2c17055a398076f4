"""Blocks of quantized numbers are computed as the format defines them: a second reading of it, one number at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from aigc_models.weights.gguf_types import (
    GGUF_INSTALL,
    GgufMissingError,
    GgufType,
    dequantize,
    find_type,
    import_gguf,
)
from aigc_runtime.errors import CheckpointError

Block = npt.NDArray[np.uint8]


def half(block: Block, at: int) -> float:
    return float(block[at : at + 2].copy().view(np.float16)[0])


def q4_0(b: Block) -> list[float]:
    d, qs = half(b, 0), b[2:18]
    return [d * (int(q) & 15) - d * 8 for q in qs] + [d * (int(q) >> 4) - d * 8 for q in qs]


def q4_1(b: Block) -> list[float]:
    d, m, qs = half(b, 0), half(b, 2), b[4:20]
    return [d * (int(q) & 15) + m for q in qs] + [d * (int(q) >> 4) + m for q in qs]


def fifth_bits(b: Block) -> list[int]:
    bits = int(b.view("<u4")[0])
    return [bits >> i & 1 for i in range(32)]


def q5_0(b: Block) -> list[float]:
    d, high, qs = half(b, 0), fifth_bits(b[2:6].copy()), b[6:22]
    low = [int(q) & 15 for q in qs] + [int(q) >> 4 for q in qs]
    return [d * (number + 16 * bit - 16) for number, bit in zip(low, high, strict=True)]


def q5_1(b: Block) -> list[float]:
    d, m, high, qs = half(b, 0), half(b, 2), fifth_bits(b[4:8].copy()), b[8:24]
    low = [int(q) & 15 for q in qs] + [int(q) >> 4 for q in qs]
    return [d * (number + 16 * bit) + m for number, bit in zip(low, high, strict=True)]


def q8_0(b: Block) -> list[float]:
    return [half(b, 0) * int(q) for q in b[2:34].view(np.int8)]


def q2_k(b: Block) -> list[float]:
    scales, qs, d, dmin = b[:16], b[16:80], half(b, 80), half(b, 82)
    out = []
    for i in range(256):
        part, inside = divmod(i, 128)
        shift, at = divmod(inside, 32)
        scale = int(scales[i // 16])
        number = int(qs[32 * part + at]) >> (2 * shift) & 3
        out.append(d * (scale & 15) * number - dmin * (scale >> 4))
    return out


def q3_k(b: Block) -> list[float]:
    hmask, qs, packed, d = b[:32], b[32:96], b[96:108], half(b, 108)
    scales = []
    for i in range(16):
        low = int(packed[i]) & 15 if i < 8 else int(packed[i - 8]) >> 4
        high = int(packed[8 + i % 4]) >> (2 * (i // 4)) & 3
        scales.append((low | high << 4) - 32)
    out = []
    for i in range(256):
        part, inside = divmod(i, 128)
        shift, at = divmod(inside, 32)
        number = int(qs[32 * part + at]) >> (2 * shift) & 3
        number -= 0 if int(hmask[at]) >> (i // 32) & 1 else 4
        out.append(d * scales[i // 16] * number)
    return out


def scale_and_min(packed: Block, j: int) -> tuple[int, int]:
    """The six bits of the j-th of eight scales and minima."""
    p = [int(x) for x in packed]
    if j < 4:
        return p[j] & 63, p[j + 4] & 63
    return p[j + 4] & 15 | p[j - 4] >> 6 << 4, p[j + 4] >> 4 | p[j] >> 6 << 4


def q4_k(b: Block) -> list[float]:
    d, dmin, packed, qs = half(b, 0), half(b, 2), b[4:16], b[16:144]
    out = []
    for i in range(256):
        scale, least = scale_and_min(packed, i // 32)
        number = int(qs[i // 64 * 32 + i % 32]) >> (4 * (i // 32 % 2)) & 15
        out.append(d * scale * number - dmin * least)
    return out


def q5_k(b: Block) -> list[float]:
    d, dmin, packed, qh, qs = half(b, 0), half(b, 2), b[4:16], b[16:48], b[48:176]
    out = []
    for i in range(256):
        scale, least = scale_and_min(packed, i // 32)
        number = int(qs[i // 64 * 32 + i % 32]) >> (4 * (i // 32 % 2)) & 15
        number += 16 * (int(qh[i % 32]) >> (i // 32) & 1)
        out.append(d * scale * number - dmin * least)
    return out


def q6_k(b: Block) -> list[float]:
    ql, qh, scales, d = b[:128], b[128:192], b[192:208].view(np.int8), half(b, 208)
    out = []
    for i in range(256):
        part, inside = divmod(i, 128)
        quarter, at = divmod(inside, 32)
        low = int(ql[64 * part + 32 * (quarter % 2) + at]) >> (4 * (quarter // 2)) & 15
        high = int(qh[32 * part + at]) >> (2 * quarter) & 3
        out.append(d * int(scales[i // 16]) * ((low | high << 4) - 32))
    return out


READINGS: dict[int, tuple[Callable[[Block], list[float]], tuple[int, ...]]] = {
    2: (q4_0, (0,)),
    3: (q4_1, (0, 2)),
    6: (q5_0, (0,)),
    7: (q5_1, (0, 2)),
    8: (q8_0, (0,)),
    10: (q2_k, (80, 82)),
    11: (q3_k, (108,)),
    12: (q4_k, (0, 2)),
    13: (q5_k, (0, 2)),
    14: (q6_k, (208,)),
}
"""Number of a type -> a second reading of a block, and where its 16-bit floats are."""


def random_blocks(kind: GgufType, floats: tuple[int, ...], *, count: int = 5) -> Block:
    rng = np.random.default_rng(kind.size)
    blocks = rng.integers(0, 256, (count, kind.size), dtype=np.uint8)
    for at in floats:
        blocks[:, at : at + 2] = rng.standard_normal((count, 1)).astype(np.float16).view(np.uint8)
    return blocks


@pytest.mark.parametrize("number", list(READINGS))
def test_blocks_are_computed_as_the_format_says(number: int) -> None:
    kind = find_type(number, tensor="w", what="f")
    reading, floats = READINGS[number]
    blocks = random_blocks(kind, floats)
    expected = np.array([reading(block) for block in blocks], np.float32)
    assert expected.shape == (5, kind.block)
    given = dequantize(blocks.reshape(-1), kind)
    np.testing.assert_allclose(given, expected.ravel(), rtol=1e-5, atol=1e-6)


def test_a_wrong_reading_would_show() -> None:
    kind = find_type(12, tensor="w", what="f")
    blocks = random_blocks(kind, (0, 2))
    expected = np.array([q4_k(block) for block in blocks], np.float32).ravel()
    other = blocks.copy()
    other[:, 4] ^= 1  # one bit of one scale
    assert not np.allclose(dequantize(other.reshape(-1), kind), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("number", "name"), [(20, "IQ4_NL"), (39, "MXFP4"), (31, "number 31"), (2**31, "number")])
def test_a_type_that_is_not_read_is_named(number: int, name: str) -> None:
    with pytest.raises(CheckpointError, match=name) as caught:
        find_type(number, tensor="blk.0.attn_q.weight", what="model.gguf")
    assert "Q4_K" in caught.value.hint


def test_without_the_package_the_install_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(GgufMissingError, match="package gguf") as caught:
        import_gguf()
    assert caught.value.hint == GGUF_INSTALL == "pip install 'aigc-export[gguf]'"
