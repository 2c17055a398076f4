"""The packages of a device: the preflight and the session take the same, and refuse the same."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aigc_runtime.backends.base import EngineProof
from aigc_runtime.backends.ort.providers import OrtBuild
from aigc_runtime.backends.trt import library as trt_library
from aigc_runtime.backends.trt.build_info import EngineBuild
from aigc_runtime.backends.trt.cuda import load_cuda
from aigc_runtime.backends.trt.library import load_library
from aigc_runtime.backends.trt.preflight import require
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.manifest import Manifest
from aigc_runtime.device.findings import Preflight
from aigc_runtime.errors import ConfigError, EngineError, EngineMissingError, InputError
from aigc_runtime.preflight import check_device

from ..compiled import BUILD, DEVICE, manifest_of, refused, unknown

CLASSIC = replace(BUILD, flavor="tensorrt", version="10.3.0")
COMPATIBLE = replace(CLASSIC, version_compatible=True)
BINDINGS = {"cuda-bindings": "13.0.1"}


def judged(toy_bundles: Path, build: EngineBuild, packages: dict[str, str]) -> Preflight:
    return check_device(manifest_of(toy_bundles, build), replace(DEVICE, packages=packages))


class Here:
    """The libraries of a device as modules, and nothing else of the kind."""

    def __init__(self, patch: pytest.MonkeyPatch, packages: dict[str, str]) -> None:
        patch.setattr(trt_library, "library_of", lambda module: module)
        for name in ("tensorrt", "tensorrt_lean", "tensorrt_rtx"):
            module: Any = None
            if name in packages:
                module = ModuleType(name)
                module.__version__ = packages[name]
            patch.setitem(sys.modules, name, module)

    def takes(self, build: EngineBuild) -> str | None:
        """The library that a session takes for an engine."""
        try:
            library: Any = load_library(build)
        except EngineMissingError:
            return None
        return f"{library.__name__} {library.__version__}"


@pytest.mark.parametrize(
    ("build", "packages", "taken"),
    [
        (BUILD, {"tensorrt_rtx": "1.7.1.116"}, "tensorrt_rtx 1.7.1.116"),
        (BUILD, {"tensorrt_rtx": "1.7.1.116.post1"}, "tensorrt_rtx 1.7.1.116.post1"),
        (BUILD, {"tensorrt_rtx": "1.8.0"}, None),
        (BUILD, {"tensorrt": "1.7.1.116"}, None),
        (BUILD, {}, None),
        (CLASSIC, {"tensorrt": "10.3.0"}, "tensorrt 10.3.0"),
        (CLASSIC, {"tensorrt": "10.4.0"}, None),
        (CLASSIC, {"tensorrt_lean": "10.3.0"}, None),
        (COMPATIBLE, {"tensorrt_lean": "10.3.0"}, "tensorrt_lean 10.3.0"),
        (COMPATIBLE, {"tensorrt_lean": "10.13.1"}, "tensorrt_lean 10.13.1"),
        (COMPATIBLE, {"tensorrt_lean": "10.2.0"}, None),
        (COMPATIBLE, {"tensorrt": "10.4.0", "tensorrt_lean": "10.3.0"}, "tensorrt 10.4.0"),
        (COMPATIBLE, {"tensorrt": "8.6.1", "tensorrt_lean": "10.3.0"}, "tensorrt_lean 10.3.0"),
        (COMPATIBLE, {"tensorrt": "8.6.1", "tensorrt_lean": "10.2.0"}, None),
    ],
)
def test_the_preflight_takes_what_the_session_takes(
    build: EngineBuild, packages: dict[str, str], taken: str | None, toy_bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = judged(toy_bundles, build, {**packages, **BINDINGS})
    assert Here(monkeypatch, packages).takes(build) == taken
    assert found.runs == (taken is not None)
    if taken is not None:
        assert found.findings[0].found.startswith(f"{taken}, the engine needs ")
        return
    (wrong,) = refused(found)
    with pytest.raises(EngineMissingError) as caught:
        load_library(build)
    assert wrong.fix == caught.value.hint


def test_what_is_said_of_a_library_that_does_not_fit(toy_bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (wrong,) = refused(judged(toy_bundles, BUILD, {"tensorrt_rtx": "1.8.0", **BINDINGS}))
    assert wrong.found == "tensorrt_rtx 1.8.0, the engine needs exactly 1.7.1.116"
    assert wrong.fix == "pip install 'aigc-runtime[rtx]' tensorrt-rtx==1.7.1.116"
    (wrong,) = refused(judged(toy_bundles, COMPATIBLE, BINDINGS))
    assert wrong.found == "tensorrt or tensorrt_lean is not installed, the engine needs 10.3.0 or later"
    Here(monkeypatch, {"tensorrt_rtx": "1.8.0"})
    with pytest.raises(EngineMissingError, match=r"tensorrt_rtx is 1\.8\.0, the engine needs exactly 1\.7\.1\.116"):
        load_library(BUILD)


@pytest.mark.parametrize(
    ("build", "packages"), [(BUILD, {"tensorrt_rtx": "1.7.1.116"}), (CLASSIC, {"tensorrt": "10.3.0"})]
)
def test_the_session_needs_cuda_bindings_as_well(
    build: EngineBuild, packages: dict[str, str], toy_bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = judged(toy_bundles, build, packages)
    assert [(f.subject, f.found) for f in refused(found)] == [("cuda-bindings", "not installed")]
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(EngineMissingError) as caught:
        load_cuda()
    assert refused(found)[0].fix == caught.value.hint == "pip install cuda-bindings"
    with pytest.raises(EngineError, match="does not run here: cuda-bindings: not installed"):
        require(check_device(manifest_of(toy_bundles, build), replace(DEVICE, packages=packages)))


def test_engines_that_no_package_brings(toy_bundles: Path) -> None:
    engine = Bundle.open(toy_bundles / "toy_unet").manifest.engine
    for kind, told in (("tensorrt", "does not say for which device"), ("openvino", "unknown engine 'openvino'")):
        with pytest.raises(InputError, match=told):
            replace(engine, kind=kind, build=None)


def test_an_engine_that_another_library_built(toy_bundles: Path) -> None:
    engine = replace(manifest_of(toy_bundles).engine, kind="tensorrt")
    (wrong,) = refused(check_device(replace(manifest_of(toy_bundles), engines={"model": engine}), DEVICE))
    assert wrong.found == "the manifest says that its tensorrt engine was built by tensorrt-rtx"
    assert wrong.fix


# ONNX Runtime on a GPU


def for_cuda(toy_bundles: Path) -> Manifest:
    manifest = Bundle.open(toy_bundles / "toy_unet").manifest
    engine = replace(manifest.engine, build=OrtBuild(provider="cuda"), proof=EngineProof(parity="graph"))
    return replace(manifest, engines={"model": engine})


def test_what_the_cuda_provider_needs(toy_bundles: Path) -> None:
    manifest, plain = for_cuda(toy_bundles), {"onnxruntime-gpu": "1.31.1"}
    whole = check_device(manifest, replace(DEVICE, packages={**plain, "nvidia-cudnn-cu13": "9.1"}))
    assert (whole.runs, unknown(whole)) == (True, {})
    assert [f.subject for f in whole.findings] == ["engine", "libraries", "GPU"]
    bare = check_device(manifest, replace(DEVICE, packages=plain))
    assert bare.runs
    assert "needs CUDA and cuDNN, of which no package is installed" in unknown(bare)["libraries"]
    assert "pip install 'aigc-runtime[ort-gpu]' brings them" in {f.fix for f in bare.findings}


def test_a_graph_that_an_older_version_does_not_load(toy_bundles: Path) -> None:
    manifest = Bundle.open(toy_bundles / "toy_unet").manifest
    engine = replace(manifest.engine, build=OrtBuild(min_version="1.23"))
    manifest = replace(manifest, engines={"model": engine})
    for version in ("1.23.0", "1.23", "1.100.1", "2.0"):
        assert check_device(manifest, replace(DEVICE, packages={"onnxruntime": version})).runs, version
    for version in ("1.22.9", "1.9.0", "1.3"):
        (old,) = refused(check_device(manifest, replace(DEVICE, packages={"onnxruntime": version})))
        assert old.found == f"onnxruntime {version}; the graph needs 1.23 or later"
        assert old.fix == "pip install 'onnxruntime>=1.23'"
    found = check_device(manifest, replace(DEVICE, packages=None))
    assert unknown(found)["engine"] == "needs onnxruntime or onnxruntime-gpu 1.23 or later; not known of this device"
    for wrong in ("new", "1.", "1.2.3.4.5", "1.23\n"):
        with pytest.raises(ConfigError, match="must be numbers"):
            OrtBuild(min_version=wrong)


def test_two_packages_in_one_folder(toy_bundles: Path) -> None:
    packages = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1", "nvidia-cudnn-cu13": "9.1"}
    found = check_device(for_cuda(toy_bundles), replace(DEVICE, packages=packages))
    assert found.runs
    assert "onnxruntime 1.32.0 is installed beside onnxruntime-gpu" in unknown(found)["engine"]
    assert found.findings[1].fix.startswith("pip uninstall -y onnxruntime && pip install --force-reinstall")
    assert (
        unknown(check_device(Bundle.open(toy_bundles / "toy_unet").manifest, replace(DEVICE, packages=packages))) == {}
    )


def test_a_device_by_name_does_not_tell_its_packages(toy_bundles: Path) -> None:
    found = check_device(for_cuda(toy_bundles), replace(DEVICE, packages=None))
    assert unknown(found) == {
        "engine": "needs onnxruntime-gpu; not known of this device",
        "libraries": "needs CUDA and cuDNN; not known of this device",
    }
