"""What ONNX Runtime gets on a CPU: a decoder in fused operators, whose sites in few bits are still counted."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from aigc_calibration.bodies import proto_nodes
from aigc_calibration.coverage import executed_sites
from aigc_export.line.exporter import ExportResult, export_model
from aigc_export.prepare.prepare import Reporter, prepare_graph
from aigc_export.recipes.recipe import ExportRecipe, export_recipe
from aigc_models.program import Program
from aigc_models.programs import lm_program

from ..conftest import tiny_lm


def program(*, separate_prefill: bool = False) -> Program:
    torch.manual_seed(0)
    model = tiny_lm(d_model=64).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # gains of 1 would leave the graph
            parameter.add_(0.05 * torch.randn_like(parameter))
    return lm_program(model, separate_prefill=separate_prefill, cache="buffer")


def recipe(precision: str = "int4", **changes: object) -> ExportRecipe:
    given = {"weight_method": "rtn"} if precision in ("int4", "int8-weight") else {}
    return export_recipe(
        program(**changes),  # type: ignore[arg-type]
        precision=precision,
        quality_samples=0,
        threads=1,
        tolerance={"min_sqnr_db": 1.0, "min_cosine": 0.5},
        **given,  # type: ignore[arg-type]
    )


def exported(recipe: ExportRecipe, folder: Path) -> ExportResult:
    return export_model(recipe, folder / "bundle")


def operators(path: Path) -> list[str]:
    return [node.op_type for node in proto_nodes(onnx.load(path, load_external_data=False).graph)]


def test_a_product_of_several_weights_counts_for_each(tmp_path: Path) -> None:
    """All seven projections of two layers and the output layer run in few bits, in four products and one."""
    done = exported(recipe(), tmp_path)
    found = operators(done.bundle.path / "model.onnx")
    assert found.count("MatMulNBits") == 2 * 4 + 1
    assert found.count("GroupQueryAttention") == 2
    assert done.coverage is not None
    assert done.coverage.missed == ()
    assert done.coverage.executed == pytest.approx(done.coverage.planned)


def test_a_product_that_is_not_noted_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check fails where a packed weight says nothing of what it was made of."""
    from aigc_export.graphs.passes.decoder import packed_products
    from aigc_export.line.quantization import quantize_parts
    from aigc_export.targets.ort_cpu import ORT_CPU

    asked = recipe()
    reporter = Reporter(None)
    prepared = prepare_graph(asked, reporter)
    low = quantize_parts([prepared], asked, reporter, None)[prepared.part.name]
    sites = {op.node for op in low.plan.quantized()}
    assert len(sites) == 15
    assert executed_sites(low.graph, low.plan) == ORT_CPU.executed(low.graph, low.plan) == sites
    monkeypatch.setattr(packed_products, "note_packed", lambda node, names: None)
    missed = sites - (ORT_CPU.executed(low.graph, low.plan) or set())
    assert len(missed) == 2 * (3 + 2)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8", "int8-weight", "fp16"])
def test_every_precision_is_within_its_tolerances(precision: str, tmp_path: Path) -> None:
    done = exported(recipe(precision), tmp_path)
    assert done.report.passed
    assert "SkipSimplifiedLayerNormalization" in operators(done.bundle.path / "model.onnx")


@pytest.mark.slow
def test_two_engines_share_packed_weights(tmp_path: Path) -> None:
    """Both pack the same weights, which are in their file once."""
    one = exported(recipe(), tmp_path / "one")
    two = exported(recipe(separate_prefill=True), tmp_path / "two")
    assert {"prefill.onnx", "decode.onnx", "shared.weights"} <= {path.name for path in two.bundle.path.iterdir()}
    shared = (two.bundle.path / "shared.weights").stat().st_size
    assert shared < 1.1 * (one.bundle.path / "model.onnx").stat().st_size
    for name in ("prefill", "decode"):
        assert operators(two.bundle.path / f"{name}.onnx").count("GroupQueryAttention") == 2
