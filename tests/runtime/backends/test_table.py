"""Back-ends are looked up by the kind of an engine; what they need is asked of a device."""

from __future__ import annotations

import pytest

from aigc_runtime.backends.table import BACKENDS, engine_packages, get_backend
from aigc_runtime.errors import UnknownNameError


def test_every_backend_goes_by_its_own_kind() -> None:
    assert all(get_backend(kind).kind == kind for kind in BACKENDS)


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown engine 'tensorrt-rt'") as caught:
        get_backend("tensorrt-rt")
    assert "Did you mean 'tensorrt-rtx'?" in caught.value.hint


def test_a_device_is_asked_for_the_packages_of_all() -> None:
    found = engine_packages()
    assert {"onnxruntime", "onnxruntime-gpu", "tensorrt_rtx", "cuda-bindings"} <= found.keys()
    assert "tensorrt_cu12" in found["tensorrt"]
