"""The device as its driver and its packages tell it, and as a file describes it."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from importlib import metadata
from typing import Any

import pytest

from aigc_runtime.backends.table import engine_packages
from aigc_runtime.device import probe as device
from aigc_runtime.device.probe import Device, Gpu, probe_device
from aigc_runtime.errors import ConfigError


class FakeDriver:
    """The driver's library with two GPUs, the second of which fails."""

    def cuInit(self, _flags: int) -> int:
        return 0

    def cuDriverGetVersion(self, out: Any) -> int:
        out._obj.value = 13010
        return 0

    def cuDeviceGetCount(self, out: Any) -> int:
        out._obj.value = 2
        return 0

    def cuDeviceGet(self, out: Any, ordinal: int) -> int:
        out._obj.value = ordinal
        return ordinal  # not 0 is an error

    def cuDeviceGetName(self, out: Any, _size: int, _handle: Any) -> int:
        out.value = b"Fake GPU"
        return 0

    def cuDeviceGetAttribute(self, out: Any, attribute: int, _handle: Any) -> int:
        out._obj.value = {75: 8, 76: 6}[attribute]
        return 0

    def cuDeviceTotalMem_v2(self, out: Any, _handle: Any) -> int:
        assert isinstance(out._obj, ctypes.c_size_t)
        out._obj.value = 8 * 10**9
        return 0


def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_load_driver", FakeDriver)
    found = probe_device()
    assert found.driver_cuda == "13.1"
    assert found.gpus == (Gpu(name="Fake GPU", compute_capability="8.6", memory_bytes=8 * 10**9),)
    monkeypatch.setattr(FakeDriver, "cuInit", lambda self, flags: 100)
    assert (probe_device().driver_cuda, probe_device().gpus) == (None, ())


def test_devices_behind_one_that_cannot_be_read_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place in the list is the place in the driver's order, by which a session opens a device."""
    monkeypatch.setattr(device, "_load_driver", FakeDriver)
    monkeypatch.setattr(FakeDriver, "cuDeviceGet", lambda self, out, ordinal: 1 - ordinal)
    assert probe_device().gpus == ()


# Packages


def test_packages_by_the_name_of_their_cuda_version(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {
        "tensorrt_cu12": "10.3.0",
        "tensorrt_rtx": "1.7.1.116",
        "tensorrt_rtx_cu13": "9",
        "cuda-bindings": "13.0",
    }

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    assert probe_device(engine_packages()).packages == {
        "tensorrt": "10.3.0",
        "tensorrt_rtx": "1.7.1.116",
        "cuda-bindings": "13.0",
    }


# What cannot be


DEVICE = Device(runtime="", platform=None, python="", driver_cuda=None, gpus=(), packages=None)
GPU = Gpu(name="some GPU", compute_capability="8.6", memory_bytes=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"platform": ""}, "platform is ''"),
        ({"platform": "linux\x1b[2J"}, "platform is "),
        ({"driver_cuda": "thirteen"}, "driver_cuda is 'thirteen'\nit reads like 13.0, or is null"),
        ({"driver_cuda": "13"}, "driver_cuda is '13'"),
        ({"driver_cuda": "13.0\n"}, "driver_cuda is "),
        ({"runtime": "new"}, "runtime has version 'new'"),
        ({"python": "-3"}, "python has version '-3'"),
        ({"packages": {"tensorrt_rtx": "latest"}}, "package 'tensorrt_rtx' has version 'latest'"),
        ({"packages": {"": "1"}}, "a package's name is ''"),
    ],
)
def test_devices_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(DEVICE, **changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "a GPU's name is ''"),
        ({"name": "x" * 201}, "a GPU's name is 'xxx"),
        ({"compute_capability": "86"}, "'86' is not a compute capability"),
        ({"memory_bytes": -1}, "memory_bytes is -1"),
    ],
)
def test_gpus_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(GPU, **changes)
    assert message in str(caught.value)
