"""Devices by name, by capability and by file; whatever a file holds is a device or one message."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aigc_export.cli import run
from aigc_export.line.exporter import export_model
from aigc_export.tools.devices import KNOWN, find_device
from aigc_runtime.backends.base import EngineProof
from aigc_runtime.backends.trt.build_info import EngineBuild
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.manifest import Manifest
from aigc_runtime.bundle.manifest_file import dump_manifest
from aigc_runtime.cli.doctor import device_lines, finding_lines
from aigc_runtime.cli.main import run as run_on_device
from aigc_runtime.core.shape_profiles import ShapeProfile
from aigc_runtime.device.probe import Device, Gpu
from aigc_runtime.errors import ConfigError, InputError, UnknownNameError
from aigc_runtime.io.jsonable import to_json
from aigc_runtime.preflight import check_device

from ..conftest import recipe_of

Capture = pytest.CaptureFixture[str]
BUILD = EngineBuild(
    flavor="tensorrt-rtx",
    version="1.7.1.116",
    cuda_major=13,
    platform="linux-x86_64",
    compute_capabilities=("8.6", "12.0"),
    hardware_compatibility="none",
    version_compatible=False,
    weight_streaming=False,
    device_memory_bytes=10**7,
    profiles=(ShapeProfile(name="all", dims={}),),
    work={"int8": 1.0},
    work_source="engine",
)
DEVICE = Device(
    runtime="0.1.0",
    platform="linux-x86_64",
    python="3.11.9",
    driver_cuda="13.0",
    gpus=(Gpu(name="NVIDIA Some GPU", compute_capability="8.6", memory_bytes=12 * 10**9),),
    packages={"tensorrt_rtx": "1.7.1.116", "cuda-bindings": "13.0.1"},
)


@pytest.fixture(scope="module")
def bundle(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle whose manifest speaks of a TensorRT-RTX engine."""
    folder = tmp_path_factory.mktemp("devices") / "gan"
    manifest = export_model(recipe_of("gan", checkpoints / "gan"), folder).bundle.manifest
    info = replace(manifest.engine, kind="tensorrt-rtx", build=BUILD, proof=EngineProof(parity="graph"))
    changed = replace(manifest, engines={"model": info}, precision="int8", target="tensorrt-rtx")
    (folder / "manifest.json").write_bytes(dump_manifest(changed))
    return folder


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return Bundle.open(bundle).manifest


def write(path: Path, value: Any) -> str:
    path.write_text(json.dumps(value))
    return str(path)


# By name and by capability


def test_every_known_device_can_be_asked_about(manifest: Manifest) -> None:
    for name in KNOWN:
        found = check_device(manifest, find_device(name))
        assert found.runs == (KNOWN[name][1] in BUILD.compute_capabilities), name
        assert None in {finding.passed for finding in found.findings}


def test_a_capability_alone_tells_neither_memory_nor_platform(bundle: Path, capsys: Capture) -> None:
    assert run(["check", str(bundle), "--device", "8.6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "?     engine: needs tensorrt_rtx exactly 1.7.1.116; not known of this device" in lines
    assert "?     memory: needs 0.01 GB; not known of this device" in lines
    assert "?     platform: built for linux-x86_64; not known of this device" in lines
    assert lines[-1].startswith("runs here, as far as the manifest tells; 5 of 6 not judged")
    assert run(["check", str(bundle), "--device", "8.6", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"] is True
    passed = {finding["subject"]: finding["passed"] for finding in told["findings"]}
    assert (passed["compute capability"], passed["memory"], passed["driver"]) == (True, None, None)
    assert run(["check", str(bundle), "--device", "9.0", "--json"]) == 5
    assert False in {finding["passed"] for finding in json.loads(capsys.readouterr().out)["findings"]}


@pytest.mark.parametrize("text", ["8.7", "87", "sm_87", "sm87"])
def test_spellings_of_a_capability(text: str) -> None:
    assert find_device(text) == find_device("8.7")
    assert find_device(text).gpus[0].compute_capability == "8.7"


def test_what_is_no_device() -> None:
    with pytest.raises(ConfigError, match="'8' is not a compute capability"):
        find_device("8")
    with pytest.raises(UnknownNameError, match="unknown device 'sm_'"):
        find_device("sm_")


@pytest.mark.parametrize("text", ["8.7", "87", "sm_87", "9.0", "90"])
def test_a_capability_that_tensorrt_rtx_does_not_serve(text: str, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("tensorrt_rtx")
    command = ["export", "gan", "--target", "tensorrt-rtx", "--compute-capability", text, "-o", str(tmp_path / "out")]
    assert run(command) == 2
    told = capsys.readouterr().err
    plain = "8.7" if "7" in text else "9.0"
    assert f"does not build for compute capability {plain}" in told
    assert "valid: 7.5, 8.0, 8.6, 8.9, 12.0, 12.1" in told
    assert "--target tensorrt" in told


def test_one_capability_in_two_spellings(tmp_path: Path, capsys: Capture) -> None:
    twice = ["--compute-capability", "8.6", "--compute-capability", "sm_86"]
    assert run(["export", "gan", "--target", "tensorrt-rtx", *twice, "-o", str(tmp_path / "out")]) == 2
    assert "compute_capabilities holds one twice: 8.6, 8.6" in capsys.readouterr().err


def test_turing_is_built_in_fp16_alone(bundle: Path, capsys: Capture) -> None:
    assert run(["check", str(bundle), "--device", "t4"]) == 5
    assert "--compute-capability 7.5 --precision fp16" in capsys.readouterr().out


# By file


def test_the_three_files_that_doctor_writes(
    bundle: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigc_runtime.cli.doctor.probe_device", lambda *_: DEVICE)
    monkeypatch.setattr("aigc_runtime.device.probe.probe_device", lambda *_: DEVICE)
    for verb, arguments in ((run_on_device, []), (run_on_device, [str(bundle)]), (run, [])):
        assert verb(["doctor", *arguments, "--json"]) == 0
        (tmp_path / "device.json").write_text(capsys.readouterr().out)
        assert find_device(str(tmp_path / "device.json")) == DEVICE
        assert run(["check", str(bundle), "--device", str(tmp_path / "device.json")]) == 0
        assert "?" not in capsys.readouterr().out


def test_a_file_as_windows_tools_write_it(tmp_path: Path) -> None:
    path, text = tmp_path / "device.json", json.dumps(to_json(DEVICE))
    path.write_bytes(b"\xef\xbb\xbf" + text.replace(",", ",\r\n").encode())
    assert find_device(str(path)) == DEVICE
    path.write_text(text, encoding="utf-16")
    with pytest.raises(InputError, match=r"device\.json is not valid: it is in UTF-16\nsave it as JSON in UTF-8"):
        find_device(str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"driver_cuda": "thirteen"}, "driver_cuda is 'thirteen'"),
        ({"driver_cuda": 13}, "driver_cuda is the number 13"),
        ({"platform": ""}, "platform is ''"),
        ({"packages": {"tensorrt_rtx": "new"}}, "package 'tensorrt_rtx' has version 'new'"),
        ({"gpus": [{"name": "x", "compute_capability": "86", "memory_bytes": 1}]}, "'86' is not a compute"),
        ({"gpus": [{"name": "x", "compute_capability": "8.6", "memory_bytes": -1}]}, "memory_bytes is -1"),
        ({"device": {}}, "device.json.runtime, platform"),
        ({"more": 1}, "more is not a known field"),
    ],
)
def test_a_file_with_a_wrong_field_is_one_message(
    changes: dict[str, Any], message: str, bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    file = write(tmp_path / "device.json", {**to_json(DEVICE), **changes})
    assert run(["check", str(bundle), "--device", file]) == 2
    assert message in capsys.readouterr().err


# No subnormal numbers: ONNX Runtime leaves the processor flushing them to zero in the thread that opened a session.
FLOATS = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
LIKELY = st.sampled_from(["13.0", "0.0", "9.9.9", "8.6", "12.0", "linux-x86_64", "1.7.1.116", "", "1", "\x1b[2J", "²"])
VALUE = LIKELY | JSON
GPUS = st.lists(
    st.fixed_dictionaries({"name": VALUE, "compute_capability": VALUE, "memory_bytes": st.integers(-1, 2**60) | VALUE}),
    max_size=2,
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "runtime": VALUE,
        "platform": VALUE,
        "python": VALUE,
        "driver_cuda": VALUE,
        "gpus": GPUS | VALUE,
        "packages": st.dictionaries(st.sampled_from(["tensorrt_rtx", "cuda-bindings", "x"]), VALUE) | VALUE,
        "device": VALUE,
    },
)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES, nested=st.booleans())
def test_whatever_a_file_holds_is_judged_or_refused(
    changes: dict[str, Any], nested: bool, manifest: Manifest, tmp_path: Path
) -> None:
    value = {**to_json(DEVICE), **changes}
    try:
        device = find_device(write(tmp_path / "device.json", {"device": value} if nested else value))
    except InputError:
        return
    lines = [*device_lines(device), *finding_lines(check_device(manifest, device))]
    assert all(line.isprintable() for line in lines)
    assert find_device(write(tmp_path / "again.json", to_json(device))) == device
