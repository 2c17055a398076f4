"""On which instruction sets a bundle was proven: in its manifest, and what is said of other processors."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigc_runtime.backends.base import EngineProof
from aigc_runtime.backends.ort.providers import OrtBuild
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.manifest import EngineInfo, EngineInterface, Manifest
from aigc_runtime.bundle.manifest_file import dump_manifest, parse_manifest
from aigc_runtime.cli.main import run
from aigc_runtime.device.probe import Device
from aigc_runtime.errors import ConfigError
from aigc_runtime.preflight import check_device

from ..compiled import BUILD, NAMED, unknown
from ..compiled import DEVICE as WITH_GPU

HASWELL = replace(WITH_GPU, gpus=(), driver_cuda=None, packages={"onnxruntime": "1.32.0"}, instruction_set="avx2")


def proven(toy_bundles: Path, *names: str, precision: str = "int8") -> Manifest:
    manifest = Bundle.open(toy_bundles / "toy_gan").manifest
    return replace(
        manifest, precision=precision, engines={"model": replace(manifest.engine, proof=EngineProof(proven_on=names))}
    )


@pytest.mark.parametrize("precision", ["int8", "int4", "int8-weight", "mixed"])
@pytest.mark.parametrize(
    ("names", "device", "passed", "told"),
    [
        (("avx2",), HASWELL, True, "avx2, proven on avx2"),
        (("avx512_vnni", "avx2"), HASWELL, True, "avx2, proven on avx512_vnni and avx2"),
        (("avx512_vnni",), HASWELL, None, "avx2; proven on avx512_vnni, not on this one"),
        ((), HASWELL, None, "avx2; proven on no processor, not on this one"),
        (("avx512_vnni",), replace(HASWELL, instruction_set=None), None, "proven on avx512_vnni; not known of this"),
        (("avx512_vnni",), NAMED, None, "proven on avx512_vnni; not known of this"),
    ],
)
def test_what_is_said_of_a_processor(
    precision: str, names: tuple[str, ...], device: Device, passed: bool | None, told: str, toy_bundles: Path
) -> None:
    found = check_device(proven(toy_bundles, *names, precision=precision), device)
    (finding,) = (f for f in found.findings if f.subject == "instruction set")
    assert (finding.passed, finding.found[: len(told)]) == (passed, told)
    assert found.runs, "what is not known does not speak against running"
    if passed is None and device is HASWELL:
        assert "aigc-run verify" in finding.fix


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "fp8"])
def test_nothing_is_said_where_floats_are_multiplied(precision: str, toy_bundles: Path) -> None:
    found = check_device(proven(toy_bundles, "avx512_vnni", precision=precision), HASWELL)
    assert {f.subject for f in found.findings} == {"engine"}


def test_another_target_is_not_judged_by_its_processor(toy_bundles: Path) -> None:
    manifest = proven(toy_bundles)
    cuda = replace(manifest.engine, build=OrtBuild(provider="cuda"), proof=EngineProof(parity="graph"))
    assert "instruction set" not in unknown(check_device(replace(manifest, engines={"model": cuda}), WITH_GPU))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proof": {"proven_on": ("AVX2",)}}, "instruction set 'AVX2'\nknown: amx_int8, avx512_vnni"),
        ({"proof": {"proven_on": ("avx2", "avx2")}}, "proven_on names an instruction set twice"),
        ({"proof": {"proven_on": ("avx2",), "parity": "graph"}}, "an engine that was not run is proven on avx2"),
        ({"proof": {"proven_on": ("avx2",)}, "build": OrtBuild(provider="cuda")}, "no processor runs"),
        ({"proof": {"proven_on": ("avx2",)}, "kind": "tensorrt-rtx", "build": BUILD}, "no processor runs"),
    ],
)
def test_what_cannot_be_proven(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EngineInfo(
            **{
                "kind": "onnxruntime",
                "file": "model.onnx",
                "interface": EngineInterface(inputs=(), outputs=(), dims=(), state=None),
                **changes,
                "proof": EngineProof(**changes["proof"]),
            }
        )
    assert message in str(caught.value)


def test_a_manifest_holds_it(toy_bundles: Path) -> None:
    manifest = proven(toy_bundles, "avx512_vnni", "of_a_later_version")
    assert parse_manifest(dump_manifest(manifest)) == manifest


@pytest.fixture
def bundle(toy_bundles: Path, tmp_path: Path) -> str:
    """A bundle said to be in int8 and proven on VNNI."""
    folder = tmp_path / "bundle"
    shutil.copytree(toy_bundles / "toy_gan", folder)
    manifest = Bundle.open(folder).manifest
    manifest = replace(
        manifest,
        precision="int8",
        engines={"model": replace(manifest.engine, proof=EngineProof(proven_on=("avx512_vnni",)))},
    )
    (folder / "manifest.json").write_bytes(dump_manifest(manifest))
    return str(folder)


@pytest.mark.parametrize(
    ("here", "verdict"),
    [
        ("avx512_vnni", "verified on avx512_vnni\n"),
        ("neon", "verified on neon; the export proved it on avx512_vnni\n"),
        (None, "verified\n"),
    ],
)
def test_verify_proves_it_here(
    here: str | None, verdict: str, bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigc_runtime.cli.verbs.instruction_set", lambda: here)
    assert run(["verify", bundle, "--threads", "1"]) == 0
    assert capsys.readouterr().out.endswith(f"\n{verdict}")
    assert run(["verify", bundle, "--threads", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["instruction_set"] == here


def test_doctor_and_info_tell(bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigc_runtime.cli.doctor.probe_device", lambda *_: HASWELL)
    assert run(["doctor", bundle]) == 0
    text = capsys.readouterr().out
    assert "processor avx2\n" in text
    assert "?     instruction set: avx2; proven on avx512_vnni, not on this one\n      `aigc-run verify`" in text
    assert "runs here, as far as the manifest tells; 1 of 2 not judged (?)\n" in text
    assert run(["info", bundle]) == 0
    assert "proven on  avx512_vnni\n" in capsys.readouterr().out
