"""The whole line for TensorRT-RTX on tiny models, and what the command line says."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from rich.console import Console

from aigc_calibration.errors import PlanError
from aigc_calibration.onnx_function import open_onnx
from aigc_export.cli import run
from aigc_export.cli.reporting import StageDisplay
from aigc_export.errors import PrecisionError
from aigc_export.line.exporter import ParityFailedError, export_model
from aigc_export.targets.graph_session import bf16_products_in_float
from aigc_export.targets.tensorrt.layers import built_types, parse_layer
from aigc_export.targets.tensorrt.library import INSTALL, Library, load_library
from aigc_export.targets.tensorrt.precision import prove
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.device.probe import probe_device
from aigc_runtime.errors import ConfigError, EngineError, EngineMissingError
from aigc_runtime.opening import open_session

from ...conftest import recipe_of
from .conftest import FLOAT

pytestmark = pytest.mark.usefixtures("capture_once")
Capture = pytest.CaptureFixture[str]


def rtx_recipe(name: str, checkpoints: Path, precision: str, capability: str = "8.9", **changes: Any) -> Any:
    from aigc_export.targets.tensorrt.settings import BuildSettings

    samples = {} if precision == "fp32" else {"calibration_samples": 32}
    build = BuildSettings(compute_capabilities=(capability,), optimization_level=0, **changes)
    recipe = recipe_of(name, checkpoints / name, target="tensorrt-rtx", precision=precision, build=build, **samples)
    # The shipped generator is small enough, and upsamples by convolutions that 8 bits have kernels for.
    return replace(recipe, checkpoint=None) if name == "gan" else recipe


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_a_bundle_that_says_what_was_and_was_not_done(
    rtx: Library, precision: str, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    result = export_model(
        rtx_recipe("gan", checkpoints, precision), tmp_path / "out", stage=lambda *line: told.append(": ".join(line))
    )
    manifest = result.bundle.manifest
    build = manifest.engine.build
    assert build is not None
    assert (build.flavor, build.version, build.compute_capabilities) == ("tensorrt-rtx", rtx.version, ("8.9",))
    assert (build.work_source, manifest.engine.proof.parity) == ("engine", "graph")
    assert max(build.work, key=lambda kind: build.work[kind]) == precision
    assert [p.dims for p in build.profiles] == [{"batch": (1, 1, 16)}]
    assert {d.name: d.max for d in manifest.interface.dims} == {"batch": 16}
    assert "the engine was not run" in manifest.provenance["parity_of"]
    assert len(manifest.provenance["built_graph_sha256"]) == 64
    assert not any(f.path.endswith(".onnx") for f in manifest.files)
    assert any("built, not run here" in line for line in told)
    monkeypatch.setattr(
        "aigc_runtime.backends.trt.session.probe_device", lambda packages: replace(probe_device(packages), gpus=())
    )
    with pytest.raises(EngineError, match="does not run here: GPU: none that a driver knows"):
        open_session(result.bundle)


def test_the_build_tells_its_progress(rtx: Library, checkpoints: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    live = Console(file=io.StringIO(), force_terminal=True, width=100)

    with StageDisplay(Console(file=io.StringIO()), "export gan", live=live) as shown:

        def progress(phase: str, step: int, total: int) -> None:
            steps.append((phase, step, total))
            shown.progress(phase, step, total)

        export_model(rtx_recipe("gan", checkpoints, "fp32"), tmp_path / "out", progress=progress)
    assert {phase for phase, _, _ in steps} >= {"Building engine", "Optimizing graph"}
    assert all(1 <= step <= total for _, step, total in steps)
    assert isinstance(live.file, io.StringIO)
    assert "Building engine" in live.file.getvalue()


def test_an_interrupt_while_it_builds_publishes_nothing(rtx: Library, checkpoints: Path, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_model(rtx_recipe("gan", checkpoints, "fp32"), tmp_path / "out", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["lm", pytest.param("unet", marks=pytest.mark.slow)])
def test_the_other_families(rtx: Library, name: str, checkpoints: Path, tmp_path: Path) -> None:
    result = export_model(rtx_recipe(name, checkpoints, "fp16"), tmp_path / "out")
    build = result.bundle.manifest.engine.build
    assert build is not None
    assert build.work == {"fp16": 1.0}
    assert len(build.profiles) == (2 if name == "lm" else 1)


def test_transposed_convolutions_have_no_8_bits_to_offer(checkpoints: Path, tmp_path: Path, rtx: Library) -> None:
    recipe = replace(rtx_recipe("gan", checkpoints, "int8"), checkpoint=str(checkpoints / "gan"))
    assert recipe.quantization is not None
    recipe = replace(recipe, quantization=replace(recipe.quantization, sensitive=("project", "to_image")))
    with pytest.raises(PlanError, match="nothing in the graph can be run in int8") as caught:
        export_model(recipe, tmp_path / "out")
    assert "TensorRT computes ConvTranspose in float" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_missed_parity_publishes_nothing(
    rtx: Library, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def wrong(path: Path, **options: Any) -> Any:
        function = open_onnx(path, **options)
        return lambda feeds: {k: v * np.float32(1.01) for k, v in function(feeds).items()}

    monkeypatch.setattr("aigc_export.targets.tensorrt.target.open_onnx", wrong)
    with pytest.raises(ParityFailedError):
        export_model(rtx_recipe("gan", checkpoints, "fp32"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_same_from_the_command_line(rtx: Library, checkpoints: Path, tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "gan"
    command = ["export", "gan", "--target", "tensorrt-rtx"]
    command += ["--precision", "int8", "--calibration-samples", "32", "--quality-samples", "0", "-o", str(output)]
    devices = ["--compute-capability", "8.6", "--compute-capability", "12.0", "--optimization-level", "0"]
    assert run([*command, *devices, "--profile", "batch=1:4:8"]) == 0
    assert "int8" in capsys.readouterr().out
    assert run(["check", str(output), "--device", "rtx-3060"]) == 0
    assert "runs here, as far as the manifest tells" in capsys.readouterr().out
    assert run(["check", str(output), "--device", "h100"]) == 5
    text = capsys.readouterr().out
    assert "FAIL  compute capability: 9.0, built for 8.6, 12.0" in text
    assert "--target tensorrt " in text
    assert run(["check", str(output), "--device", "8.9", "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["runs"] is False
    assert run(["check", str(output), "--device", "rtx-306"]) == 2
    assert "Did you mean 'rtx-3060'?" in capsys.readouterr().err
    assert run(["inspect", str(output)]) == 0
    assert "8.6, 12.0" in capsys.readouterr().out
    assert run([*command, "--compute-capability", "8.7"]) == 2
    assert "valid: 7.5, 8.0, 8.6, 8.9, 12.0, 12.1" in capsys.readouterr().err
    assert run([*command[:4], "--compute-capability", "8.6", "--precision", "fp8", "-o", str(output)]) == 2
    assert "devices of compute capability 8.6 do not multiply fp8 numbers" in capsys.readouterr().err
    compatible = ["--hardware-compatibility", "ampere_plus"]
    assert run([*command, "--compute-capability", "8.6", *compatible]) == 2
    assert "TensorRT-RTX has no hardware compatibility levels" in capsys.readouterr().err
    assert run(["export", "gan", "-o", str(output), *compatible]) == 2
    assert "target 'ort-cpu' compiles nothing" in capsys.readouterr().err
    assert run([*command, "--hardware-compatibility", "all"]) == 2
    assert "'all' is not one of 'none', 'ampere_plus'" in capsys.readouterr().err


def test_a_device_from_the_file_that_doctor_wrote(tmp_path: Path, capsys: Capture) -> None:
    from aigc_export.tools.devices import find_device
    from aigc_runtime.backends.table import engine_packages
    from aigc_runtime.cli.main import run as run_on_device
    from aigc_runtime.device.probe import probe_device

    assert run_on_device(["doctor", "--json"]) == 0
    (tmp_path / "device.json").write_text(capsys.readouterr().out)
    assert find_device(str(tmp_path / "device.json")) == probe_device(engine_packages())
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ConfigError, match="are missing"):
        find_device(str(tmp_path / "bad.json"))
    assert run(["check", str(tmp_path), "--device", str(tmp_path / "none.json")]) in {2, 4}


def test_doctor_says_what_is_missing(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    for line in INSTALL.values():
        assert line in text
    with pytest.raises(EngineMissingError, match=r"pip install 'aigc-export\[rtx\]'"):
        load_library("tensorrt-rtx")


def test_doctor_lists_the_devices_it_can_build_for(rtx: Library, capsys: Capture) -> None:
    assert run(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["targets"]["tensorrt-rtx"]
    assert told["builds"] is True
    assert "7.5, 8.0, 8.6" in told["summary"]


# bf16 in ONNX Runtime


def test_bf16_products_are_spelled_out(tmp_path: Path) -> None:
    """Against the product of the rounded operands in float64, rounded to bf16."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, 64), np.float32), rng.standard_normal((64, 5), np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], name="to", to=16),
        helper.make_node("MatMul", ["h", "w"], ["m"], name="product"),
        helper.make_node("Cast", ["m"], ["y"], name="back", to=FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [3, 64])],
        [helper.make_tensor_value_info("y", FLOAT, [3, 5])],
        [numpy_helper.from_array(w.astype(ml_dtypes.bfloat16), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(proto, tmp_path / "bf16.onnx")
    with pytest.raises(EngineError, match="cannot load the graph"):
        open_onnx(tmp_path / "bf16.onnx", threads=1, optimize=False)
    ir.save(bf16_products_in_float(ir.from_proto(proto)), tmp_path / "float.onnx")
    found = open_onnx(tmp_path / "float.onnx", threads=1, optimize=False)({"x": x})["y"]
    rounded = [a.astype(ml_dtypes.bfloat16).astype(np.float64) for a in (x, w)]
    expected = (rounded[0] @ rounded[1]).astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_allclose(found, expected, rtol=2**-7)
    assert (found == expected).mean() > 0.9


# Reading layers


LINE = (
    "Name: node_a+node_b_myl0_1, LayerType: gemm, Inputs: [ { Name: x, Datatype: Int8, Format: f }], Constants: "
    "[ { Name: w, Datatype: Int8 }, { Name: s, Datatype: Float }, { Name: t, Datatype: Float }], Outputs: "
    "[ { Name: y, Datatype: Float }], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: node_a][ONNX Layer: node_b]"
)
MOVE = (
    "Name: __myl_Move, LayerType: kgen, Inputs: [ { Datatype: Float }, { Datatype: Float }], Constants: [], "
    "Outputs: [], Metadata: [ONNX Layer: node_a]"
)


def test_a_layer_is_read() -> None:
    layer = parse_layer(LINE)
    assert layer is not None
    assert (layer.kind, layer.operands, layer.nodes) == ("gemm", ("int8", "int8", "fp32", "fp32"), ("node_a", "node_b"))
    assert parse_layer("anything else") is None


def test_the_layer_that_multiplies_counts_and_of_equals_the_wider_type() -> None:
    assert built_types([MOVE, LINE], ["node_a", "node_b", "node_c"]) == {"node_a": "int8", "node_b": "int8"}
    assert built_types([LINE, LINE.replace("Int8", "Half")], ["node_a"]) == {"node_a": "fp16"}
    assert built_types([MOVE], ["node_a"]) == {"node_a": "fp32"}
    assert built_types([LINE.replace("Datatype: Int8", "Datatype: New")], ["node_a"]) == {"node_a": "fp32"}


def test_proof_and_its_limits() -> None:
    macs = {"a": 990, "b": 10}
    proof = prove({"a": "int8", "b": "int8"}, macs, {"a": "int8", "b": "int8"}, {"a": "int8"})
    assert proof.work == {"int8": 0.99, "unknown": 0.01}
    with pytest.raises(PrecisionError, match=r"98\.9% is built so"):
        prove({"a": "int8", "b": "int8"}, {"a": 989, "b": 11}, {"a": "int8", "b": "int8"}, {"a": "int8"})
    with pytest.raises(PrecisionError, match="a asked fp32, network fp16"):
        prove({"a": "fp32"}, {"a": 1}, {"a": "fp16"}, {"a": "fp16"})
    assert prove({"a": "fp16"}, {"a": 1}, {"a": "fp16"}, None).source == "network"
    with pytest.raises(PrecisionError, match="network fp32"):
        prove({"a": "int8"}, {"a": 1}, {"a": "fp32"}, {"a": "int8"})


def test_bundles_stay_whole(rtx: Library, checkpoints: Path, tmp_path: Path) -> None:
    """A tampered engine is refused by its hash, before any library sees it."""
    export_model(rtx_recipe("gan", checkpoints, "fp32"), tmp_path / "out")
    engine = tmp_path / "out" / "model.engine"
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    engine.write_bytes(data)
    with pytest.raises(Exception, match=r"'model\.engine' has SHA-256"):
        Bundle.open(tmp_path / "out")
