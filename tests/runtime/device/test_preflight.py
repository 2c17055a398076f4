"""Whether a device runs a bundle, from the manifest alone; every check has a device that fails it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from aigc_runtime.backends.trt.preflight import require
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.manifest_file import dump_manifest
from aigc_runtime.cli import main as cli
from aigc_runtime.cli.doctor import finding_lines
from aigc_runtime.cli.main import run
from aigc_runtime.device.probe import Device
from aigc_runtime.errors import BundleError, EngineError
from aigc_runtime.opening import open_session
from aigc_runtime.preflight import check_device

from ..compiled import BUILD, CLASSIC, DEVICE, GPU, NAMED, gpu, manifest_of, refused, unknown


def test_a_device_that_will_do(toy_bundles: Path) -> None:
    found = check_device(manifest_of(toy_bundles), DEVICE)
    assert found.runs
    assert found.gpu == "some GPU"
    assert {f.subject for f in found.findings} == {
        "engine",
        "cuda-bindings",
        "platform",
        "driver",
        "compute capability",
        "memory",
    }
    require(check_device(manifest_of(toy_bundles), DEVICE))


@pytest.mark.parametrize(
    ("changed", "subject", "message"),
    [
        (replace(DEVICE, gpus=()), "GPU", "none that a driver knows"),
        (replace(DEVICE, platform="linux-aarch64"), "platform", "built for linux-x86_64"),
        (replace(DEVICE, driver_cuda="12.8"), "driver", "up to 12.8, the engine needs 13"),
        (gpu(compute_capability="8.9"), "compute capability", "8.9, built for 8.6, 12.0"),
        (gpu(memory_bytes=10**9), "memory", "1.0 GB, the engine needs 2.00 GB"),
    ],
)
def test_devices_that_will_not(changed: Device, subject: str, message: str, toy_bundles: Path) -> None:
    manifest = manifest_of(toy_bundles)
    wrong = refused(check_device(manifest, changed))
    assert [f.subject for f in wrong] == [subject]
    assert message in wrong[0].found
    assert wrong[0].fix
    with pytest.raises(EngineError, match="the engine does not run here"):
        require(check_device(manifest, changed))


def test_no_package_is_named_where_none_would_help(toy_bundles: Path) -> None:
    manifest = manifest_of(toy_bundles)
    bare = replace(DEVICE, packages={})
    with pytest.raises(EngineError, match="tensorrt_rtx is not installed") as caught:
        require(check_device(manifest, bare))
    assert caught.value.hint.count("pip install") == 2
    with pytest.raises(EngineError, match=r"tensorrt_rtx is not installed.*compute capability: 9\.0") as caught:
        require(check_device(manifest, replace(bare, gpus=(replace(GPU, compute_capability="9.0"),))))
    assert "--target tensorrt" in caught.value.hint
    assert "pip install" not in caught.value.hint


@pytest.mark.parametrize(
    ("precision", "capability", "why", "command"),
    [
        (
            "int8",
            "8.9",
            "again: ",
            "--target tensorrt-rtx --compute-capability 12.1 --compute-capability 8.9 --precision int8",
        ),
        ("fp8", "8.9", "again: ", "--compute-capability 12.1 --compute-capability 8.9 --precision fp8"),
        ("fp16", "7.5", "again: ", "--compute-capability 12.1 --compute-capability 7.5 --precision fp16"),
        ("int8", "7.5", "in fp16 because 7.5 is not built in int8: ", "--compute-capability 7.5 --precision fp16"),
        ("fp32", "7.5", "in fp16 because 7.5 is not built in fp32: ", "--compute-capability 7.5 --precision fp16"),
        ("fp8", "8.0", "in fp16 because 8.0 is not built in fp8: ", "--compute-capability 8.0 --precision fp16"),
        ("int8", "9.0", "TensorRT-RTX does not serve it; on the device: ", "--target tensorrt --precision int8"),
        ("fp8", "8.7", "on the device, in fp16 because 8.7 is ", "--target tensorrt --precision fp16"),
    ],
)
def test_what_to_rebuild(precision: str, capability: str, why: str, command: str, toy_bundles: Path) -> None:
    manifest = manifest_of(toy_bundles, replace(BUILD, compute_capabilities=("12.1",)), precision)
    (fix,) = (f.fix for f in refused(check_device(manifest, gpu(compute_capability=capability))))
    assert why in fix
    assert f"{command} -o DIR" in fix


def test_arithmetic_that_a_device_lacks(toy_bundles: Path) -> None:
    build = replace(BUILD, work={"fp8": 1.0}, compute_capabilities=("8.6",))
    wrong = refused(check_device(manifest_of(toy_bundles, build), DEVICE))
    assert [f.found for f in wrong] == ["has no fp8, which 100% of the work is in"]


def test_hardware_compatibility_that_was_built_in(toy_bundles: Path) -> None:
    build = replace(BUILD, flavor="tensorrt", version="10.3.0", hardware_compatibility="ampere_plus")
    device = replace(DEVICE, packages={"tensorrt": "10.3.0", "cuda-bindings": "13.0.1"})
    manifest = manifest_of(toy_bundles, build)
    assert check_device(manifest, gpu(device, compute_capability="9.0")).runs
    assert not check_device(manifest, gpu(device, compute_capability="7.5")).runs


CLASSIC_DEVICE = replace(DEVICE, packages={"tensorrt": "10.3.0", "cuda-bindings": "13.0.1"})


@pytest.mark.parametrize(
    ("changes", "name", "passed"),
    [
        ({}, "NVIDIA A100-SXM4-40GB", True),
        ({}, "A100-SXM4-40GB", True),  # as older drivers say it
        ({}, "NVIDIA A30", False),
        ({}, "NVIDIA A100-SXM4-40GB MIG 1g.5gb", False),
        ({"gpu": None}, "NVIDIA A30", None),
    ],
)
def test_a_tensorrt_engine_is_for_the_model_it_was_built_on(
    changes: dict[str, Any], name: str, passed: bool | None, toy_bundles: Path
) -> None:
    device = gpu(CLASSIC_DEVICE, name=name, compute_capability="8.0")
    found = check_device(manifest_of(toy_bundles, replace(CLASSIC, **changes)), device)
    assert {f.subject: f.passed for f in found.findings}["GPU model"] is passed
    assert found.runs == (passed is not False)
    if passed is False:
        (wrong,) = refused(found)
        assert wrong.found == f"{name}, built on NVIDIA A100-SXM4-40GB for that model alone"
        assert "--hardware-compatibility same_compute_capability" in wrong.fix
    levels: tuple[Literal["ampere_plus", "same_compute_capability"], ...] = ("ampere_plus", "same_compute_capability")
    for level in levels:
        build = replace(CLASSIC, hardware_compatibility=level, **changes)
        assert check_device(manifest_of(toy_bundles, build), device).runs


def test_the_model_is_judged_where_it_says_something(toy_bundles: Path) -> None:
    manifest = manifest_of(toy_bundles, CLASSIC)
    other = check_device(manifest, gpu(CLASSIC_DEVICE, name="other", compute_capability="8.6"))
    assert [f.subject for f in refused(other)] == ["compute capability"]
    by_name = check_device(manifest, gpu(NAMED, name="A100", compute_capability="8.0"))
    assert by_name.runs
    assert "runs on NVIDIA A100-SXM4-40GB alone, on which it was built" in unknown(by_name)["GPU model"]
    assert "GPU model" not in {f.subject for f in check_device(manifest_of(toy_bundles), DEVICE).findings}


# What is not known


def test_what_a_named_device_does_not_tell_is_neither_passed_nor_failed(toy_bundles: Path) -> None:
    bare = replace(gpu(NAMED, memory_bytes=None), platform=None)
    found = check_device(manifest_of(toy_bundles), bare)
    assert unknown(found) == {
        "engine": "needs tensorrt_rtx exactly 1.7.1.116; not known of this device",
        "cuda-bindings": "needs cuda-bindings; not known of this device",
        "platform": "built for linux-x86_64; not known of this device",
        "driver": "needs one that runs CUDA 13; not known of this device",
        "memory": "needs 2.00 GB; not known of this device",
    }
    assert found.runs
    lines = finding_lines(found)
    assert "?     engine: needs tensorrt_rtx exactly 1.7.1.116; not known of this device" in lines
    assert "pass  compute capability: 8.6, built for 8.6, 12.0" in lines
    assert lines[-1] == "runs here, as far as the manifest tells; 5 of 6 not judged (?)"
    require(check_device(manifest_of(toy_bundles), bare))
    old = check_device(manifest_of(toy_bundles), gpu(bare, compute_capability="7.5", memory_bytes=None))
    assert not old.runs
    assert [f.subject for f in refused(old)] == ["compute capability"]


def test_streamed_weights_need_not_fit(toy_bundles: Path) -> None:
    build = replace(BUILD, weight_streaming=True)
    small = check_device(manifest_of(toy_bundles, build), gpu(memory_bytes=10**9))
    assert small.runs
    assert unknown(small)["memory"].startswith("1.0 GB, the engine needs 2.00 GB with all weights; they are streamed")
    assert unknown(check_device(manifest_of(toy_bundles, build), DEVICE)) == {}
    assert [f.subject for f in refused(check_device(manifest_of(toy_bundles), gpu(memory_bytes=10**9)))] == ["memory"]


def test_the_first_gpu_that_runs_it_is_named(toy_bundles: Path) -> None:
    old = replace(GPU, name="old", compute_capability="7.5")
    found = check_device(manifest_of(toy_bundles), replace(DEVICE, gpus=(old, GPU)))
    assert (found.runs, found.gpu, found.ordinal) == (True, "some GPU", 1)


def test_a_portable_engine_needs_its_package_alone(toy_bundles: Path) -> None:
    manifest = Bundle.open(toy_bundles / "toy_unet").manifest
    plain = replace(DEVICE, gpus=(), packages={"onnxruntime": "1.20"})
    assert check_device(manifest, plain).runs
    assert not check_device(manifest, replace(plain, packages={})).runs
    named = check_device(manifest, replace(NAMED, gpus=()))
    assert named.runs
    assert unknown(named) == {"engine": "needs onnxruntime or onnxruntime-gpu; not known of this device"}


# From the bundle to the command line


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
    monkeypatch.setattr("aigc_runtime.backends.trt.session.probe_device", lambda *_: replace(DEVICE, gpus=()))
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
    monkeypatch.setattr("aigc_runtime.cli.doctor.probe_device", lambda *_: DEVICE)
    assert run(["doctor"]) == 0
    assert "some GPU, compute capability 8.6, 12.0 GB" in capsys.readouterr().out
    folder = str(trt_bundle(toy_bundles, tmp_path))
    assert run(["doctor", folder]) == 0
    text = capsys.readouterr().out
    assert "runs here, as far as the manifest tells\n" in text
    assert "origin    not signed\nnote " in text
    assert "\n          (`aigc-run info` prints the digest)\n" in text  # a line of its own
    pin = ["--expect-manifest-sha256", Bundle.open(folder).manifest_sha256]
    assert run(["doctor", folder, *pin]) == 0
    assert capsys.readouterr().out.endswith("origin    not signed\n")
    assert run(["doctor", folder, *pin, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest_pinned"] is True
    monkeypatch.setattr("aigc_runtime.cli.doctor.probe_device", lambda *_: replace(DEVICE, driver_cuda="12.0"))
    assert run(["doctor", folder, "--json"]) == 5
    told = json.loads(capsys.readouterr().out)
    assert (told["runs"], told["manifest_pinned"]) == (False, False)
    assert [f["subject"] for f in told["findings"] if f["passed"] is False] == ["driver"]
    assert run(["doctor", folder]) == 5
    assert "FAIL  driver" in capsys.readouterr().out
    assert cli.run(["doctor", str(tmp_path / "nothing")]) == 4
