"""Which precisions the tests on a GPU ask of which device; needs no GPU."""

from __future__ import annotations

import pytest

from aigc_runtime.device.probe import Gpu

from .conftest import lacks

ALL = ["fp32", "fp16", "bf16", "int8", "fp8"]


@pytest.mark.parametrize(
    ("target", "capability", "tested"),
    [
        ("tensorrt-rtx", "7.5", ["fp16"]),
        ("tensorrt", "7.5", ["fp32", "fp16", "int8"]),
        ("tensorrt-rtx", "8.6", ["fp32", "fp16", "bf16", "int8"]),
        ("tensorrt-rtx", "8.9", ALL),
        ("tensorrt", "9.0", ALL),
        ("tensorrt-rtx", "12.0", ALL),
    ],
)
def test_what_is_asked_of_a_device(target: str, capability: str, tested: list[str]) -> None:
    gpu = Gpu(name="some GPU", compute_capability=capability, memory_bytes=None)
    assert [precision for precision in ALL if lacks(gpu, target, precision) is None] == tested
    assert all("some GPU" in (lacks(gpu, target, precision) or "") for precision in ALL if precision not in tested)
