"""The size of a bundle that is computed beforehand is that of what is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from tests.calibration.conftest import Batches, make_graph

from aigc_calibration.config import QuantConfig
from aigc_calibration.formats import SIGNED_FORMAT, UNSIGNED_FORMAT
from aigc_calibration.onnx_file import weight_bytes
from aigc_calibration.plan import as_site_precision
from aigc_calibration.quantize import quantize
from aigc_export.cli import run
from aigc_export.line.exporter import ExportResult
from aigc_export.line.sizes import bundle_size, cache_bytes, proof_bytes
from aigc_export.targets.table import get_target
from aigc_export.workloads import text
from aigc_models.families.lm_config import LMConfig
from aigc_models.sources import outline

CONSTANTS = 64
"""Bytes of the scales and zero points of activations, which every product has."""
SMOLLM2: dict[str, Any] = {
    "vocab_size": 49152, "context_length": 8192, "d_model": 576, "n_layers": 30, "n_heads": 9, "n_kv_heads": 3,
    "d_ff": 1536, "tie_embeddings": True,
}  # fmt: skip


def one_product(inputs: int, outputs: int) -> LMConfig:
    """A model of which the output layer is nearly all."""
    return LMConfig(vocab_size=outputs, context_length=4, d_model=inputs, n_layers=1, n_heads=1, d_ff=1)


@pytest.mark.parametrize(("precision", "block"), [
    ("fp16", 32), ("bf16", 32), ("fp8", 32), ("int8", 32), ("int8-weight", 32), ("int4", 32), ("int4", 128),
])  # fmt: skip
def test_a_product_takes_what_is_computed(precision: str, block: int) -> None:
    rng = np.random.default_rng(0)
    inputs, outputs = 200, 96  # no whole number of blocks
    weight = rng.standard_normal((inputs, outputs)).astype(np.float32)
    graph = make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="p")],
        {"w": weight},
        {"x": [8, inputs]},
        {"y": [8, outputs]},
    )
    data = Batches(({"x": rng.standard_normal((8, inputs)).astype(np.float32)},))
    config = QuantConfig(weight_method="rtn", block=block)
    form = SIGNED_FORMAT if precision == "int8" else UNSIGNED_FORMAT  # which runs it in blocks
    made = quantize(graph, data, config, precision=as_site_precision(precision), form=form)
    model, other = one_product(inputs, outputs), QuantConfig(keep_float=("lm_head",), block=block)
    computed, kept = (bundle_size(model, precision, form, quantization=c) for c in (config, other))
    assert computed is not None
    assert kept is not None
    product = computed.weights - kept.weights + 4 * inputs * outputs
    assert 0 <= weight_bytes(made.graph) - product <= CONSTANTS


def blocks(numbers: int, bits: int) -> int:
    """Of 8 bits a scale for 32 numbers; of 4 bits a scale and 4 bits of a zero point for 64."""
    return numbers + 4 * numbers // 32 if bits == 8 else numbers // 2 + 4 * numbers // 64


def test_what_stays_float_and_what_is_wide() -> None:
    def weights(precision: str, **changes: Any) -> int:
        found = bundle_size(LMConfig(**{**SMOLLM2, **changes}), precision, UNSIGNED_FORMAT)
        assert found is not None
        return found.weights

    assert weights("fp32") == 4 * 134_515_008
    assert weights("fp32", tie_embeddings=False) == 4 * (134_515_008 + 49152 * 576)
    # The output layer has a copy of its own where its codes are none that a lookup can read.
    assert weights("fp16") == weights("fp16", tie_embeddings=False)
    embedding, down, norms = 49152 * 576, 576 * 1536, 61 * 576
    layers = 134_515_008 - embedding - norms
    halves = 2 * (layers + embedding)
    assert weights("fp16") == 4 * (embedding + norms) + halves
    # Of 9 zero points of an output, in 576 numbers, the last has a byte of its own; of 24 in 1,536 none has.
    zero_points = (layers - 30 * down) // 576 * 5 + 30 * 576 * 12
    assert weights("int4") == 4 * norms + blocks(layers, 4) + zero_points + blocks(embedding, 8)
    assert weights("int4", tie_embeddings=False) == weights("int4") + blocks(embedding, 8)
    assert weights("int8") == 4 * norms + blocks(layers + embedding, 8)
    signed = bundle_size(LMConfig(**SMOLLM2), "int8", SIGNED_FORMAT)
    assert signed is not None
    assert signed.weights > 4 * (norms + down + embedding) + layers - down + embedding
    assert bundle_size(LMConfig(**SMOLLM2), "auto", UNSIGNED_FORMAT) is None


def test_a_cache_of_each_token() -> None:
    assert cache_bytes(LMConfig(**SMOLLM2), 1) == 2 * 30 * 3 * 64 * 4
    assert cache_bytes(LMConfig(**SMOLLM2), 8192) == 8192 * 46080


def test_the_recorded_logits_are_those_of_the_bundle(results: dict[str, ExportResult]) -> None:
    bundle = results["lm"].bundle
    config = LMConfig.from_dict(bundle.manifest.model_config)
    steps = [step for case in bundle.manifest.reference.cases for step in case.steps]
    recorded = sum(bundle.array(step.outputs["logits"]).nbytes for step in steps)
    assert proof_bytes(config) == recorded
    size = bundle_size(config, "fp32", UNSIGNED_FORMAT)
    assert size is not None
    engine = next(file.size for file in bundle.manifest.files if file.path == "model.onnx")
    assert 0 < engine - size.weights < 2 * size.graph
    assert text.CASE_LOGITS == 2**18  # beyond which fewer places of a prompt are recorded


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tied"), [("fp32", True), ("int8", True), ("int4", False)])
def test_a_bundle_is_as_large_as_was_said(precision: str, tied: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=6000, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=tied,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "m")
    known = outline(str(tmp_path / "m"))[1]
    assert known.config is not None
    said = bundle_size(known.config, precision, get_target("ort-cpu").format)
    assert said is not None
    loose = ["min_cosine=0.5", "min_token_agreement=0.001", "min_sqnr_db=1", "max_kl=99", "min_top1_agreement=0.001"]
    options = ["--calibration-samples", "8"] if precision in ("int8", "fp16") else []
    options += ["--weight-method", "rtn"] if precision == "int4" else []
    options += ["--block", "32"] if precision == "int8" else []  # larger ones, which are smaller, are chosen by samples
    options += [word for limit in loose for word in ("--tolerance", limit)] if precision != "fp32" else []
    out = tmp_path / "out"
    assert (
        run(
            [
                "export",
                str(tmp_path / "m"),
                "--precision",
                precision,
                "-o",
                str(out),
                "--quality-samples",
                "0",
                *options,
            ]
        )
        == 0
    )
    made = sum(path.stat().st_size for path in out.iterdir())
    assert said.total == pytest.approx(made, rel=0.05)
