"""The line for `ort-cuda` without a GPU: its graphs, what it says of them, and the way of their values to a device."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from aigc_calibration.onnx_function import open_onnx
from aigc_export.cli import run
from aigc_export.line.exporter import ParityFailedError, export_model
from aigc_export.mixed_precision.search import search
from aigc_export.parity.reference import make_cases
from aigc_export.prepare.prepare import Reporter, prepare_graph
from aigc_export.recipes.budget import parse_budget
from aigc_export.recipes.recipe import export_recipe
from aigc_export.recipes.search import SearchConfig
from aigc_export.targets import ort_cuda
from aigc_export.targets.base import BuiltEngine
from aigc_export.targets.ort import build_ort
from aigc_export.targets.table import TARGETS
from aigc_runtime.backends.base import EngineProof
from aigc_runtime.backends.ort.providers import OrtBuild
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.errors import ConfigError, EngineMissingError, UnknownNameError
from aigc_runtime.opening import open_session

from ..conftest import Tiny, recipe_of

Capture = pytest.CaptureFixture[str]
CUDA = "CUDAExecutionProvider"
PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose"}

without_cuda = pytest.mark.skipif(
    CUDA in onnxruntime.get_available_providers(), reason="this ONNX Runtime was built with CUDA: see tests/gpu"
)


def cuda_recipe(name: str, checkpoints: Path, precision: str = "fp32", **changes: Any) -> Any:
    samples = {} if precision == "fp32" else {"calibration_samples": 32}
    return recipe_of(name, checkpoints / name, target="ort-cuda", precision=precision, **samples, **changes)


def product_types(data: bytes) -> set[int]:
    """Types of the first two operands of all products."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data), strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    types.update({t.name: t.data_type for t in graph.initializer})
    return {types[name] for node in graph.node if node.op_type in PRODUCTS for name in node.input[:2]}


@without_cuda
@pytest.mark.usefixtures("capture_once")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["lm", pytest.param("unet", marks=pytest.mark.slow), "gan"])
def test_a_bundle_that_says_what_was_not_tried(name: str, precision: str, checkpoints: Path, tmp_path: Path) -> None:
    told: list[str] = []
    recipe = cuda_recipe(name, checkpoints, precision)
    bundle = export_model(recipe, tmp_path / "out", stage=lambda *line: told.append(": ".join(line))).bundle
    manifest = bundle.manifest
    assert (manifest.target, manifest.precision, manifest.format_version) == ("ort-cuda", precision, 1)
    assert (manifest.engine.kind, manifest.engine.build) == ("onnxruntime", OrtBuild(provider="cuda"))
    assert manifest.engine.proof == EngineProof(parity="graph")
    assert manifest.provenance["parity_of"].startswith("the graph, run by ONNX Runtime on a CPU; ")
    assert "was not tried" in manifest.provenance["parity_of"]
    assert any("cuda was not tried here: parity is that of its graph on a CPU" in line for line in told)
    wanted = onnx.TensorProto.FLOAT if precision == "fp32" else onnx.TensorProto.FLOAT16
    assert product_types(bundle.read("model.onnx")) == {wanted}
    with pytest.raises(EngineMissingError, match=f"has no {CUDA}"):
        open_session(bundle)


@pytest.mark.usefixtures("capture_once")
def test_an_export_where_only_the_package_for_gpus_is_installed(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = metadata.version

    def version(name: str) -> str:
        if name == "onnxruntime":
            raise metadata.PackageNotFoundError(name)
        return "1.31.1" if name == "onnxruntime-gpu" else honest(name)

    monkeypatch.setattr(metadata, "version", version)
    found = export_model(recipe_of("gan", checkpoints / "gan"), tmp_path / "out").bundle.manifest.provenance
    assert found["onnxruntime"] == onnxruntime.__version__
    assert found["onnxruntime-gpu"] == "1.31.1"


@without_cuda
@pytest.mark.usefixtures("capture_once")
def test_missed_parity_publishes_nothing(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def wrong(path: Path, **options: Any) -> Any:
        function = open_onnx(path, **options)
        return lambda feeds: {k: v * np.float32(1.01) for k, v in function(feeds).items()}

    monkeypatch.setattr(ort_cuda, "open_onnx", wrong)
    with pytest.raises(ParityFailedError):
        export_model(cuda_recipe("gan", checkpoints), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("capture_once")
def test_where_the_provider_runs_parity_is_its_own(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine with a GPU, of which the way of values to the device is all that a CPU can stand for."""
    opened: list[str] = []

    def on_device(engine: BuiltEngine, *, threads: int | None, device: str) -> OrtSession:
        opened.append(device)
        session = OrtSession(engine.files[engine.file].read_bytes(), engine.interface, threads=threads, bound=True)
        session.placement = {CUDA: 14, "CPUExecutionProvider": 2}
        return session

    monkeypatch.setattr(ort_cuda, "unavailable", lambda _ort, _provider: None)
    monkeypatch.setattr(ort_cuda, "open_ort", on_device)
    told: list[str] = []
    recipe = cuda_recipe("gan", checkpoints)
    manifest = export_model(recipe, tmp_path / "out", stage=lambda *line: told.append(": ".join(line))).bundle.manifest
    assert opened == ["cuda"]
    assert manifest.engine.proof == EngineProof(parity="engine")
    assert "parity_of" not in manifest.provenance
    assert any(f"{CUDA} runs 14 of 16 nodes, 2 compute shapes on the host" in line for line in told)


# What it refuses


@pytest.mark.parametrize("precision", [p for p in TARGETS["ort-cpu"].precisions if p not in {"fp32", "fp16"}])
def test_precisions_that_would_be_run_otherwise(precision: str) -> None:
    with pytest.raises(ConfigError, match=f"target 'ort-cuda' does not run {precision}") as caught:
        export_recipe("gan", target="ort-cuda", precision=precision)
    assert "--target" in caught.value.hint
    assert "valid here: fp32, fp16" in caught.value.hint


def test_a_precision_that_nobody_runs() -> None:
    with pytest.raises(UnknownNameError, match=r"'fp15'\nvalid: fp16, fp32\. Did you mean 'fp16'"):
        export_recipe("gan", target="ort-cuda", precision="fp15")


def test_options_of_compiled_engines(checkpoints: Path) -> None:
    with pytest.raises(ConfigError, match="target 'ort-cuda' compiles nothing, so it takes no compute_capabilities"):
        cuda_recipe("gan", checkpoints, build={"compute_capabilities": ("8.6",)})


@pytest.mark.usefixtures("capture_once")
def test_a_search_is_for_an_engine_that_runs_here(checkpoints: Path) -> None:
    recipe = cuda_recipe("gan", checkpoints)
    prepared = prepare_graph(recipe, Reporter(None))
    with pytest.raises(ConfigError, match="target 'ort-cuda' does not run auto"):
        search(prepared, recipe, SearchConfig(budgets=(parse_budget("psnr>=40"),)), Reporter(None).report)


@without_cuda
@pytest.mark.usefixtures("capture_once")
def test_the_same_from_the_command_line(checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    output = str(tmp_path / "out")
    command = ["export", "gan", "--checkpoint", str(checkpoints / "gan"), "--target", "ort-cuda", "-o", output]
    assert run([*command, "--precision", "int8"]) == 2
    assert "does not run int8" in capsys.readouterr().err
    assert run([*command, "--precision", "fp16", "--calibration-samples", "32", "--quality-samples", "0"]) == 0
    assert "parity is that of its graph on a CPU" in capsys.readouterr().out
    assert run(["inspect", output]) == 0
    text = capsys.readouterr().out
    assert "runs on cuda" in text
    assert "not run here: parity is that of its graph on a CPU" in text
    assert run(["check", output, "--device", "rtx-3060"]) == 0
    assert "pass  GPU: GeForce RTX 3060" in capsys.readouterr().out
    original = ["--checkpoint", str(checkpoints / "gan")]
    for verb in (["verify", *original], ["bench", *original], ["generate", "-o", str(tmp_path / "x.png")]):
        assert run([verb[0], output, *verb[1:]]) == 5
        assert "aigc-runtime[ort-gpu]" in capsys.readouterr().err
    assert run(["doctor"]) == 0
    assert "ort-cuda: but does not run here, so parity is that of its graph: " in capsys.readouterr().out
    assert Bundle.open(output).manifest.engine.build == OrtBuild(provider="cuda")


# The way of values to a device, on the CPU


def test_bound_and_plain_runs_of_every_model_are_equal(each: Tiny, tmp_path: Path) -> None:
    """Growing and buffered caches, images of fixed and of any size: bound to a device, they are what they were."""
    program = each.program
    build_ort(each.captured.model, program.part.interface, tmp_path)
    data = (tmp_path / "model.onnx").read_bytes()
    plain, bound = (OrtSession(data, program.part.interface, threads=1, bound=b) for b in (False, True))
    steps = 0
    for case in make_cases(each.session(), program, seed=0):
        rows = len(next(iter(case.steps[0].inputs.values())))
        states = [session.new_state(rows) for session in (plain, bound)]
        for step in case.steps:
            first, second = (s.run(step.inputs, state) for s, state in zip((plain, bound), states, strict=True))
            for name, expected in step.outputs.items():
                np.testing.assert_array_equal(first[name], second[name])
                np.testing.assert_allclose(second[name], expected, atol=2e-4)
            steps += 1
    assert steps >= (8 if program.part.interface.state else 2)
