"""Building, references, parity and the whole line: nothing is published that was not proven."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from aigc_calibration.onnx_file import to_proto
from aigc_export.errors import PassError
from aigc_export.line import attempt, exporter
from aigc_export.line import quality as judged
from aigc_export.line.exporter import ExportResult, ParityFailedError, export_model
from aigc_export.line.origin import load_original
from aigc_export.line.package import make_bundle
from aigc_export.parity.bisect import find_first_divergence
from aigc_export.parity.check import check_parity
from aigc_export.parity.reference import make_cases, make_generation
from aigc_export.parity.report import junit_xml, parity_table, report_json
from aigc_export.prepare import prepare as front
from aigc_export.recipes.recipe import export_recipe
from aigc_export.targets.ort import build_ort
from aigc_export.targets.ort_cpu import ORT_CPU
from aigc_export.tools.verifier import verify_against_torch
from aigc_export.workloads import get_workload
from aigc_models.evaluation.paired import Scores
from aigc_models.families.gan import Generator, GeneratorConfig
from aigc_models.sources.shipped import load_shipped
from aigc_models.weights.checkpoint import save_checkpoint
from aigc_runtime.bundle.bundle import Bundle, write_bundle
from aigc_runtime.bundle.manifest import QualityResult
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.compare import Tolerance
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import (
    BundleError,
    CheckpointError,
    EngineError,
    InputError,
    OutputError,
    UnknownNameError,
)
from aigc_runtime.opening import open_session
from aigc_runtime.proof.paired import PairedMetric
from aigc_runtime.proof.verify import ParityReport, verify_bundle
from aigc_runtime.system.processor import instruction_set

from ..conftest import TINY, Tiny, recipe_of, tiny_lm, tiny_of, write_checkpoint

pytestmark = pytest.mark.usefixtures("capture_once")
# Building


def test_a_built_engine_loads_and_has_the_announced_interface(each: Tiny, tmp_path: Path) -> None:
    engine = build_ort(each.captured.model, each.program.part.interface, tmp_path)
    assert (engine.kind, engine.file, list(engine.files)) == ("onnxruntime", "model.onnx", ["model.onnx"])
    assert engine.size_bytes == (tmp_path / "model.onnx").stat().st_size
    *others, last = each.program.part.interface.inputs
    wrong = replace(each.program.part.interface, inputs=(*others, replace(last, name="other")))
    with pytest.raises(EngineError, match="the manifest announces"):
        build_ort(each.captured.model, wrong, tmp_path)


def test_weights_beside_the_graph_are_read_from_the_bundle_alone(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tiny_of("gan")
    engine = build_ort(tiny.captured.model, tiny.program.part.interface, tmp_path, external_threshold=0)
    assert sorted(engine.files) == ["model.onnx", "model.onnx.data"]
    loaded = replace(load_shipped("gan", checkpoint=checkpoints / "gan"), parts=tiny.program.parts)
    session = tiny.session()
    cases, generation = make_cases(session, tiny.program, seed=0), make_generation(session, tiny.program, seed=0)
    recipe = recipe_of("gan", checkpoints / "gan")
    manifest, files = make_bundle(loaded, recipe, {"model": engine}, cases=cases, generation=generation, quality=())
    write_bundle(tmp_path / "bundle", manifest, files)
    # A file of the same name in the working directory must not be taken for the bundle's.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "model.onnx.data").write_bytes(bytes(engine.files["model.onnx.data"].stat().st_size))
    monkeypatch.chdir(elsewhere)
    bundle = Bundle.open(Path(os.path.relpath(tmp_path / "bundle")))
    report = verify_bundle(bundle, open_session(bundle, threads=1))
    assert report.passed, report.failures
    data = bytearray((tmp_path / "bundle" / "model.onnx.data").read_bytes())
    data[5] ^= 255
    (tmp_path / "bundle" / "model.onnx.data").write_bytes(data)
    with pytest.raises(BundleError, match=r"'model\.onnx\.data' has SHA-256"):
        Bundle.open(tmp_path / "bundle")


# References


def test_references_are_seeded_and_cover_several_shapes_and_steps(family: Tiny) -> None:
    session = family.session()
    a, b, c = (make_cases(session, family.program, seed=s) for s in (1, 1, 2))
    for first, second, other in zip(a, b, c, strict=True):
        assert first.name == second.name
        for x, y, z in zip(first.steps, second.steps, other.steps, strict=True):
            for name in x.outputs:
                np.testing.assert_array_equal(x.outputs[name], y.outputs[name])
            assert any(not np.array_equal(x.inputs[n], z.inputs[n]) for n in x.inputs)
    rows = {len(next(iter(case.steps[0].inputs.values()))) for case in a}
    assert len(rows) > 1
    if family.program.part.interface.state:
        assert all(len(case.steps) == 4 for case in a)
        assert any(case.steps[0].inputs["pad_length"].any() for case in a)
    generation = make_generation(session, family.program, seed=1)
    plain = {name: value for name, value in generation.request.items() if not isinstance(value, np.ndarray)}
    assert json.loads(json.dumps(plain)) == plain
    assert all(np.isfinite(output).all() for output in generation.outputs.values())


# Parity


def damaged(session: ArraySession, change: Callable[[Mapping[str, Array]], dict[str, Array]]) -> ArraySession:
    function = session._function
    assert function is not None
    session._function = lambda values: change(function(values))
    return session


def parity_of(
    tiny: Tiny,
    candidate: ArraySession,
    quality: tuple[QualityResult, ...] = (),
    paired: tuple[PairedMetric, ...] = (),
) -> ParityReport:
    reference = tiny.session()
    return check_parity(
        candidate,
        tiny.program,
        name=tiny.name,
        target="ort-cpu",
        precision="fp32",
        cases=make_cases(reference, tiny.program, seed=0),
        generation=make_generation(reference, tiny.program, seed=0),
        scores=Scores(quality=quality, paired=paired),
        tolerances=get_workload(tiny.program.kind).tolerances["fp32"],
    )


def test_pytorch_agrees_with_itself(family: Tiny) -> None:
    report = parity_of(family, family.session())
    assert report.passed, report.failures
    assert report.worst().errors.max_abs == 0.0


def test_a_small_error_in_one_output_fails(family: Tiny) -> None:
    name = family.program.part.interface.outputs[0].name
    report = parity_of(family, damaged(family.session(), lambda out: {**out, name: out[name] * np.float32(1.001)}))
    assert not report.passed
    assert any(name in failure and "sqnr_db" in failure for failure in report.failures)


def test_an_error_in_the_carried_state_alone_fails() -> None:
    tiny = tiny_of("lm-growing")
    report = parity_of(
        tiny, damaged(tiny.session(), lambda out: {k: v * (1.1 if "present" in k else 1.0) for k, v in out.items()})
    )
    assert all(c.passed for c in report.tensors if c.step == 0)
    assert not any(c.passed for c in report.tensors if c.step > 0)


def test_a_generation_alone_can_fail() -> None:
    tiny = tiny_of("gan")
    candidate = damaged(
        tiny.session(), lambda out: {k: v * np.float32(1 + (len(v) == 8) * 0.01) for k, v in out.items()}
    )
    report = parity_of(tiny, candidate)  # cases have batches of 1 and 4, the generation of 8
    assert all(c.passed for c in report.tensors)
    assert not report.generation.passed
    assert not report.passed
    assert any("psnr_db is" in failure for failure in report.failures)


@pytest.mark.parametrize(
    ("reference", "bundle", "higher", "passed"),
    [
        (0.98, 0.98, True, True),
        (0.98, 0.971, True, True),
        (0.98, 0.96, True, False),
        (0.98, 0.99, True, True),
        (1.5, 1.6, False, False),
        (1.5, 1.4, False, True),
        (0.98, float("nan"), True, False),
        (float("nan"), 0.98, True, False),
    ],
)
def test_quality_alone_can_fail(reference: float, bundle: float, higher: bool, passed: bool) -> None:
    tiny = tiny_of("gan")
    result = QualityResult(metric="accuracy", reference=reference, bundle=bundle, higher_is_better=higher)
    report = parity_of(tiny, tiny.session(), (result,))
    assert report.passed is passed
    assert any("quality: accuracy" in f for f in report.failures) is not passed


@pytest.mark.parametrize(
    ("family", "name", "value", "passed"),
    [
        ("gan", "psnr_db", 70.1, True),
        ("gan", "psnr_db", 69.9, False),
        ("gan", "psnr_db", math.nan, False),
        ("lm-growing", "ppl_increase", 0.0009, True),
        ("lm-growing", "ppl_increase", 0.0011, False),
        ("lm-growing", "top1_agreement", 0.1, True),  # told, not limited
    ],
)
def test_paired_quality_alone_can_fail(family: str, name: str, value: float, passed: bool) -> None:
    tiny = tiny_of(family)
    measure = next(m for m in get_workload(tiny.program.kind).measures if m.name == name)
    metric = measure.paired(value, standard_error=0.1, samples=20)
    report = parity_of(tiny, tiny.session(), paired=(metric,))
    assert report.passed is passed
    assert any(f"paired: {name}" in f for f in report.failures) is not passed
    assert f"paired {name}" in junit_xml(report, seconds=0.0).decode()


# Reports


def failing_report() -> ParityReport:
    tiny = tiny_of("gan")
    bad = QualityResult(metric="accuracy", reference=0.9, bundle=0.5, higher_is_better=True)
    return parity_of(tiny, damaged(tiny.session(), lambda out: {k: v * np.float32(2) for k, v in out.items()}), (bad,))


def test_reports_for_machines() -> None:
    tiny = tiny_of("gan")
    for report, failures in ((parity_of(tiny, tiny.session()), 0), (failing_report(), 4)):
        plain = json.loads(report_json(report))
        assert (plain["schema"], plain["error"]) == ("aigc-export-report/1", None)
        assert plain["passed"] is (failures == 0)
        assert plain["tensors"][0]["errors"].keys() >= {
            "max_abs",
            "mean_abs",
            "max_over_rms",
            "cosine",
            "sqnr_db",
            "worst_index",
        }
        suite = ET.fromstring(junit_xml(report, seconds=1.25))
        assert suite.tag == "testsuite"
        assert suite.get("failures") == str(failures)
        assert suite.get("tests") == str(len(suite.findall("testcase")))
        assert len(suite.findall("testcase/failure")) == failures
        assert (suite.get("errors"), suite.get("time")) == ("0", "1.250")


def test_a_report_on_nothing_is_a_failure() -> None:
    tiny = tiny_of("gan")
    empty = replace(parity_of(tiny, tiny.session()), tensors=())
    assert not empty.passed
    assert empty.failures == ("no tensor was compared",)
    assert b'failures="1"' in junit_xml(empty, seconds=0.0)


def test_the_table_shows_what_failed() -> None:
    from rich.console import Console

    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(parity_table(failing_report()))
    text = console.export_text()
    assert text.count("FAIL") == 4
    assert "quality accuracy" in text
    console.file.close()


# The line


@pytest.mark.parametrize("name", list(TINY))
def test_an_export_is_a_verified_bundle(name: str, results: dict[str, ExportResult], checkpoints: Path) -> None:
    result = results[name]
    manifest = result.bundle.manifest
    assert result.report.passed
    assert [p.name for p in result.passes] == [n for n, _ in ORT_CPU.passes]
    assert manifest.name == name
    assert manifest.provenance["checkpoint_sha256"] == load_shipped(name, checkpoint=checkpoints / name).weights_sha256
    assert manifest.provenance["torch"] == torch.__version__
    assert manifest.engine.proof.proven_on == (instruction_set(),)
    assert verify_bundle(result.bundle, open_session(result.bundle, threads=1)).passed
    again = verify_against_torch(result.bundle, checkpoint=checkpoints / name, quality_samples=0, threads=1)
    assert again.report.passed
    assert again.divergence is None


def test_the_stages_are_told_in_order(checkpoints: Path, tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    export_model(recipe_of("gan", checkpoints / "gan"), tmp_path / "out", stage=lambda *what: told.append(what))
    passes = [n for n, _ in ORT_CPU.passes]
    assert [n for n, _ in told] == ["load", "reference", "capture", *passes, "build", "parity", "publish"]
    assert all(text.endswith(" s)") for _, text in told)


STRICT = replace(get_workload("gan").tolerances["fp32"], tensor=Tolerance(min_sqnr_db=390.0))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("bisect", [False, True])
def test_a_missed_tolerance_publishes_nothing(bisect: bool, copies: Path, checkpoints: Path) -> None:
    before = contents(copies)
    recipe = recipe_of("gan", checkpoints / "gan", tolerances=STRICT)
    with pytest.raises(ParityFailedError) as caught:
        export_model(recipe, copies / "gan", bisect=bisect)
    assert caught.value.exit_code == 3
    assert "nothing was published" in str(caught.value)
    assert (caught.value.divergence is not None) is bisect
    assert not caught.value.report.passed
    with pytest.raises(ParityFailedError):
        export_model(recipe, copies / "new")
    assert contents(copies) == before


STAGES = {
    "capture": front,
    "run_passes": front,
    "build_engine": attempt,
    "make_cases": exporter,
    "make_evaluator": judged,
    "make_bundle": exporter,
}


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_failure_in_any_stage_leaves_the_old_bundle(
    stage: str, copies: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PassError(f"{stage} broke")

    before = contents(copies)
    monkeypatch.setattr(STAGES[stage], stage, fail)
    with pytest.raises(PassError, match="broke"):
        export_model(recipe_of("gan", checkpoints / "gan"), copies / "gan")
    assert contents(copies) == before


def test_a_place_that_cannot_be_written(checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="exists and is not a directory"):
        export_model(recipe_of("gan", checkpoints / "gan"), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_other_weights_are_refused_before_anything_is_compared(copies: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", "gan", seed=1)
    with pytest.raises(CheckpointError, match="is not the one that the bundle was made from: its weights have SHA-256"):
        verify_against_torch(Bundle.open(copies / "gan"), checkpoint=other, quality_samples=0, threads=1)


def rewrite_weight(folder: Path, module: str) -> None:
    """Change the weight of the first MatMul or Conv of `module` in a bundle's graph and publish it again, whole."""
    bundle = Bundle.open(folder)
    model = onnx.load(str(folder / "model.onnx"))
    weights = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        scopes = "".join(p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes")
        if (
            node.op_type in {"MatMul", "Gemm", "Conv", "ConvTranspose"}
            and module in scopes
            and node.input[1] in weights
        ):
            tensor = weights[node.input[1]]
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values * np.float32(1.05), tensor.name))
            break
    files: dict[str, bytes | Path] = {f.path: bundle.read(f.path) for f in bundle.manifest.files}
    files["model.onnx"] = model.SerializeToString()
    write_bundle(folder, replace(bundle.manifest, files=()), files)


@pytest.mark.parametrize(
    ("name", "module"),
    [("lm", "layers.1.mlp"), ("unet", "mid_block.resnets.1"), ("gan", "blocks.0")],
)
def test_a_changed_weight_is_traced_to_its_module(name: str, module: str, copies: Path, checkpoints: Path) -> None:
    rewrite_weight(copies / name, module)
    bundle = Bundle.open(copies / name)
    device = verify_bundle(bundle, open_session(bundle, threads=1))
    assert not device.passed
    found = verify_against_torch(bundle, checkpoint=checkpoints / name, quality_samples=0, threads=1, bisect=True)
    assert not found.report.passed
    assert found.divergence is not None
    assert found.divergence.found
    assert str(found.divergence.module).startswith(module), str(found.divergence)
    assert str(found.divergence).startswith("first divergence: node ")
    json.dumps(found.divergence.to_dict(), allow_nan=False)


def test_bisection_of_a_sound_graph_finds_nothing(copies: Path, checkpoints: Path) -> None:
    from aigc_export.tools.verifier import _bisect

    bundle = Bundle.open(copies / "unet")
    found = _bisect(
        bundle, load_original(bundle, checkpoints / "unet").part, "model", 0, bundle.manifest.tolerances.tensor
    )
    assert not found.found
    assert found.compared > 50
    assert "no single node diverges" in str(found)


def test_bisection_needs_shared_names() -> None:
    tiny = tiny_of("gan")
    model = to_proto(tiny.captured.model)
    for node in model.graph.node:
        for names in (node.input, node.output):
            renamed = [
                f"{n}_" if n and n not in {t.name for t in tiny.program.part.interface.graph_inputs} else n
                for n in names
            ]
            names[:] = renamed
    with pytest.raises(EngineError, match="shares no value name"):
        find_first_divergence(
            model,
            tiny.captured.program,
            tiny.feeds(),
            output_names=tiny.program.part.interface.graph_outputs,
            tolerance=Tolerance(min_sqnr_db=80.0),
        )


def test_a_bundle_with_the_checkpoint_of_another_shape(copies: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = tiny_lm(n_layers=1)
    save_checkpoint(tmp_path / "shallow", module, {"family": "lm", "model": module.config.to_dict()})
    with pytest.raises(BundleError, match=r"inputs and outputs are not those of .*\nname the checkpoint"):
        load_original(Bundle.open(copies / "lm"), tmp_path / "shallow")
    with pytest.raises(CheckpointError):
        load_original(Bundle.open(copies / "lm"), copies / "gan")


def test_recipes_refuse_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'unet'"):
        export_recipe("unett")
    with pytest.raises(UnknownNameError, match=r"unknown target 'ort_cpu'.*\n.*Did you mean 'ort-cpu'"):
        export_recipe("lm", target="ort_cpu")
    with pytest.raises(UnknownNameError, match=r"unknown precision for target 'ort-cpu' 'fp23'\nvalid: .*fp32"):
        export_recipe("lm", precision="fp23")
    refused: tuple[dict[str, Any], ...] = ({"quality_samples": -1}, {"quality_samples": 1}, {"threads": 0})
    for bad in refused:
        with pytest.raises(InputError):
            export_recipe("lm", **bad)


def test_every_family_and_precision_has_limits() -> None:
    from aigc_export.targets.table import TARGETS
    from aigc_models.sources.shipped import MODELS

    for entry in MODELS.values():
        for target in TARGETS.values():
            for precision in target.precisions:
                # A search ends in a plain precision, or in a mix that has the limits of the lowest one in it.
                assert precision == "auto" or precision in get_workload(entry.kind).tolerances


@pytest.mark.slow
def test_ten_classes_of_something_else_are_not_evaluated_as_digits(tmp_path: Path) -> None:
    shape = GeneratorConfig(image_size=16, latent_size=6, num_classes=10, class_embedding_size=3, base_channels=4)
    for names, measured in (([str(i) for i in range(10)], 2), ([f"kind-{i}" for i in range(10)], 0)):
        record = {"family": "gan", "model": shape.to_dict(), **({"class_names": names} if names else {})}
        save_checkpoint(tmp_path / "mine", Generator(shape).eval(), record)
        recipe = export_recipe("gan", checkpoint=str(tmp_path / "mine"), quality_samples=4, threads=1)
        result = export_model(recipe, tmp_path / "out")
        assert len(result.report.quality) == len(result.bundle.manifest.quality) == measured
        assert all(quality.data == "scikit-learn's digits" for quality in result.bundle.manifest.quality)
        assert [c.metric.name for c in result.report.paired] == ["psnr_db"]
        again = verify_against_torch(result.bundle, checkpoint=tmp_path / "mine", quality_samples=4, threads=1)
        assert len(again.report.quality) == measured
