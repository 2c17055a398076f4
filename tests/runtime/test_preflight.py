"""Whether a device runs a bundle, from the manifest alone; every check has a device that fails it."""

from __future__ import annotations

import ctypes
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigc_runtime import cli, device
from aigc_runtime.backends import open_session
from aigc_runtime.bundle import Bundle
from aigc_runtime.cli import run
from aigc_runtime.device import Device, Gpu, probe_device
from aigc_runtime.engine_build import EngineBuild, ShapeProfile, capability_number, choose_profile
from aigc_runtime.errors import BundleError, ConfigError, EngineError, FeedError
from aigc_runtime.manifest import EngineInfo, Manifest, dump_manifest, parse_manifest
from aigc_runtime.preflight import check_device, require_device

BUILD = EngineBuild(
    flavour="tensorrt-rtx",
    version="1.7.1.116",
    cuda_major=13,
    platform="linux-x86_64",
    compute_capabilities=("8.6", "12.0"),
    hardware_compatibility="none",
    version_compatible=False,
    weight_streaming=False,
    device_memory_bytes=2 * 10**9,
    profiles=(
        ShapeProfile(name="prefill", dims={"batch": (1, 1, 8), "sequence": (1, 64, 256), "past": (0, 0, 256)}),
        ShapeProfile(name="decode", dims={"batch": (1, 1, 8), "sequence": (1, 1, 1), "past": (0, 128, 256)}),
    ),
    work={"int8": 0.9, "fp32": 0.1},
    work_source="engine",
    parity="graph",
)
GPU = Gpu(name="some GPU", compute_capability="8.6", memory_bytes=12 * 10**9)
DEVICE = Device(
    runtime="0.1.0",
    platform="linux-x86_64",
    python="3.10.12",
    driver_cuda="13.0",
    gpus=(GPU,),
    packages={"tensorrt_rtx": "1.7.1.116"},
)


def manifest_of(toy_bundles: Path, build: EngineBuild = BUILD) -> Manifest:
    manifest = Bundle.open(toy_bundles / "toy_unet").manifest
    info = EngineInfo(kind=build.flavour, file=manifest.engine.file, build=build)
    return replace(manifest, engine=info, format_version=2, precision="int8")


def test_a_device_that_will_do(toy_bundles: Path) -> None:
    found = check_device(manifest_of(toy_bundles), DEVICE)
    assert found.runs
    assert found.gpu == "some GPU"
    assert {f.subject for f in found.findings} == {"engine", "platform", "driver", "compute capability", "memory"}
    require_device(manifest_of(toy_bundles), DEVICE)


def gpu(**changes: Any) -> Device:
    return replace(DEVICE, gpus=(replace(GPU, **changes),))


@pytest.mark.parametrize(
    ("changed", "subject", "message"),
    [
        (replace(DEVICE, gpus=()), "GPU", "none that a driver knows"),
        (replace(DEVICE, packages={}), "engine", "tensorrt_rtx is not installed"),
        (replace(DEVICE, packages={"tensorrt": "1.7.1.116"}), "engine", "tensorrt_rtx is not installed"),
        (replace(DEVICE, packages={"tensorrt_rtx": "1.8.0"}), "engine", "needs exactly 1.7.1.116"),
        (replace(DEVICE, platform="linux-aarch64"), "platform", "built for linux-x86_64"),
        (replace(DEVICE, driver_cuda="12.8"), "driver", "up to 12.8, the engine needs 13"),
        (gpu(compute_capability="8.9"), "compute capability", "8.9, built for 8.6, 12.0"),
        (gpu(memory_bytes=10**9), "memory", "1.0 GB, the engine needs 2.00 GB"),
    ],
)
def test_devices_that_will_not(changed: Device, subject: str, message: str, toy_bundles: Path) -> None:
    manifest = manifest_of(toy_bundles)
    wrong = [f for f in check_device(manifest, changed).findings if not f.passed]
    assert [f.subject for f in wrong] == [subject]
    assert message in wrong[0].found
    assert wrong[0].fix
    with pytest.raises(EngineError, match="the engine does not run here"):
        require_device(manifest, changed)


def test_what_to_rebuild(toy_bundles: Path) -> None:
    manifest = manifest_of(toy_bundles)
    fixes = {c: check_device(manifest, gpu(compute_capability=c)).findings[-2].fix for c in ("8.9", "9.0")}
    assert "--target tensorrt-rtx --compute-capability 8.9 --precision int8" in fixes["8.9"]
    assert "TensorRT-RTX does not serve it; on the device: " in fixes["9.0"]


def test_arithmetic_that_a_device_lacks(toy_bundles: Path) -> None:
    build = replace(BUILD, work={"fp8": 1.0}, compute_capabilities=("8.6",))
    wrong = [f for f in check_device(manifest_of(toy_bundles, build), DEVICE).findings if not f.passed]
    assert [f.found for f in wrong] == ["has no fp8, which 100% of the work is in"]


def test_compatibility_that_was_built_in(toy_bundles: Path) -> None:
    build = replace(
        BUILD, flavour="tensorrt", version="10.3.0", version_compatible=True, hardware_compatibility="ampere_plus"
    )
    newer = replace(gpu(compute_capability="9.0"), packages={"tensorrt_lean": "10.13.1"})
    assert check_device(manifest_of(toy_bundles, build), newer).runs
    older = replace(newer, packages={"tensorrt_lean": "10.2.0"})
    assert not check_device(manifest_of(toy_bundles, build), older).runs
    assert not check_device(
        manifest_of(toy_bundles, build), replace(newer, gpus=gpu(compute_capability="7.5").gpus)
    ).runs


def test_the_first_gpu_that_runs_it_is_named(toy_bundles: Path) -> None:
    old = replace(GPU, name="old", compute_capability="7.5")
    found = check_device(manifest_of(toy_bundles), replace(DEVICE, gpus=(old, GPU)))
    assert (found.runs, found.gpu, found.ordinal) == (True, "some GPU", 1)


def test_a_portable_engine_needs_its_package_alone(toy_bundles: Path) -> None:
    manifest = Bundle.open(toy_bundles / "toy_unet").manifest
    plain = replace(DEVICE, gpus=(), packages={"onnxruntime": "1.20"})
    assert check_device(manifest, plain).runs
    assert not check_device(manifest, replace(plain, packages={})).runs


# The manifest


def test_a_compiled_engine_in_the_manifest(toy_bundles: Path) -> None:
    manifest = manifest_of(toy_bundles)
    data = dump_manifest(manifest)
    assert parse_manifest(data) == manifest
    assert dump_manifest(parse_manifest(data)) == data
    for name in json.loads(data)["engine"]["build"]:
        changed = json.loads(data)
        del changed["engine"]["build"][name]
        with pytest.raises(BundleError, match=f"{name} is missing"):
            parse_manifest(json.dumps(changed).encode())
    changed = {**json.loads(data), "format_version": 1}
    with pytest.raises(BundleError, match=r"engine\.build is not a known field"):
        parse_manifest(json.dumps(changed).encode())
    with pytest.raises(ConfigError, match="format_version is 1"):
        replace(manifest, format_version=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compute_capabilities": ()}, "names no compute capability"),
        ({"compute_capabilities": ("86",)}, "'86' is not a compute capability"),
        ({"profiles": ()}, "no profile of shapes"),
        ({"work": {"int7": 1.0}}, "counted in 'int7'"),
        ({"work": {"int8": 0.5}}, "shares of one whole"),
        ({"work": {"int8": float("nan")}}, "shares of one whole"),
        ({"work": {}}, "shares of one whole"),
        ({"device_memory_bytes": -1}, "device_memory_bytes is -1"),
    ],
)
def test_builds_that_say_nothing_or_nonsense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(BUILD, **changes)


# Profiles


def test_the_narrowest_profile_is_chosen() -> None:
    assert choose_profile(BUILD.profiles, {"batch": 1, "sequence": 40, "past": 0}) == 0
    assert choose_profile(BUILD.profiles, {"batch": 1, "sequence": 1, "past": 40}) == 1
    assert choose_profile(BUILD.profiles[::-1], {"batch": 1, "sequence": 1, "past": 40}) == 0


def test_a_shape_outside_every_profile() -> None:
    with pytest.raises(FeedError, match="no profile of the engine takes batch 9, sequence 1, past 0") as caught:
        choose_profile(BUILD.profiles, {"batch": 9, "sequence": 1, "past": 0})
    assert "prefill: batch 1 to 8, sequence 1 to 256, past 0 to 256" in caught.value.hint
    assert "--profile batch=1:9:9,sequence=1:1:1,past=0:0:0" in caught.value.hint
    with pytest.raises(ConfigError, match="batch is 2:1:4"):
        ShapeProfile(name="bad", dims={"batch": (2, 1, 4)})


def test_capabilities_sort_as_numbers() -> None:
    assert capability_number("12.0") > capability_number("9.0") > capability_number("8.9")
    for text in ("", "8", "8.", "8.66", "sm_86", "0.1", "8.6\n"):
        with pytest.raises(ConfigError, match="is not a compute capability"):
            capability_number(text)


# The device


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


def trt_bundle(toy_bundles: Path, tmp_path: Path) -> Path:
    """A whole bundle whose manifest speaks of a TensorRT-RTX engine."""
    import shutil

    shutil.copytree(toy_bundles / "toy_unet", tmp_path / "rtx")
    (tmp_path / "rtx" / "manifest.json").write_bytes(dump_manifest(manifest_of(toy_bundles)))
    return tmp_path / "rtx"


def test_an_engine_for_another_device_is_never_opened(
    toy_bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(trt_bundle(toy_bundles, tmp_path))
    monkeypatch.setattr("aigc_runtime.backends.trt.probe_device", lambda: replace(DEVICE, gpus=()))
    with pytest.raises(EngineError, match="does not run here: GPU: none that a driver knows"):
        open_session(bundle)


def test_a_tampered_engine_is_refused_before_anything_else(toy_bundles: Path, tmp_path: Path) -> None:
    folder = trt_bundle(toy_bundles, tmp_path)
    engine = folder / "model.onnx"
    engine.write_bytes(engine.read_bytes()[:-1] + b"\x00")
    with pytest.raises(BundleError, match="SHA-256"):
        Bundle.open(folder)


def test_doctor(
    toy_bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigc_runtime.cli_doctor.probe_device", lambda: DEVICE)
    assert run(["doctor"]) == 0
    assert "some GPU, compute capability 8.6, 12.0 GB" in capsys.readouterr().out
    folder = str(trt_bundle(toy_bundles, tmp_path))
    assert run(["doctor", folder]) == 0
    assert "runs here, as far as the manifest tells" in capsys.readouterr().out
    monkeypatch.setattr("aigc_runtime.cli_doctor.probe_device", lambda: replace(DEVICE, driver_cuda="12.0"))
    assert run(["doctor", folder, "--json"]) == 5
    told = json.loads(capsys.readouterr().out)
    assert told["runs"] is False
    assert [f["subject"] for f in told["findings"] if not f["passed"]] == ["driver"]
    assert run(["doctor", folder]) == 5
    assert "FAIL  driver" in capsys.readouterr().out
    assert cli.run(["doctor", str(tmp_path / "nothing")]) == 4
