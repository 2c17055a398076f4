"""What the manifest is told about an engine that TensorRT built: for which device, and on which model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aigc_export.targets.tensorrt import target
from aigc_export.targets.tensorrt.build import BuiltTrt
from aigc_export.targets.tensorrt.library import Library
from aigc_export.targets.tensorrt.settings import BuildSettings
from aigc_runtime.backends.trt.build_info import EngineBuild, Flavor
from aigc_runtime.core.shape_profiles import ShapeProfile
from aigc_runtime.device.probe import Device, Gpu, probe_device
from aigc_runtime.errors import ConfigError

A100 = Gpu(name="NVIDIA A100-SXM4-40GB", compute_capability="8.0", memory_bytes=40 * 10**9)
OTHER = Gpu(name="other", compute_capability="8.6", memory_bytes=10**9)


def facts(flavor: Flavor, settings: BuildSettings, device: Device, patch: pytest.MonkeyPatch) -> EngineBuild:
    patch.setattr(target, "probe_device", lambda *_: device)
    proof: Any = SimpleNamespace(work={"fp32": 1.0}, source="engine")
    built = BuiltTrt(path=Path("model.engine"), seconds=1.0, proof=proof, device_memory_bytes=1, layers=(), warnings=())
    library = Library(flavor=flavor, module=SimpleNamespace(), version="10.3.0", cuda_major=12)
    return target._facts(library, built, settings, (ShapeProfile(name="all", dims={}),))


def test_classic_tensorrt_builds_for_the_model_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    device = replace(probe_device(), gpus=(A100, OTHER))
    build = facts("tensorrt", BuildSettings(), device, monkeypatch)
    assert (build.compute_capabilities, build.gpu) == (("8.0",), "NVIDIA A100-SXM4-40GB")
    with pytest.raises(ConfigError, match="was not found"):
        facts("tensorrt", BuildSettings(), replace(device, gpus=()), monkeypatch)


def test_tensorrt_rtx_builds_for_capabilities_whatever_is_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    device = replace(probe_device(), gpus=(A100,))
    build = facts("tensorrt-rtx", BuildSettings(compute_capabilities=("8.6", "12.0")), device, monkeypatch)
    assert (build.compute_capabilities, build.gpu) == (("8.6", "12.0"), None)
