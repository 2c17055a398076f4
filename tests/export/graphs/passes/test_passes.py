"""Passes keep the function; one that does not is stopped, whatever it breaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from aigc_calibration.onnx_file import SharedWeights, save_graph, to_proto
from aigc_calibration.prepare import copy_graph
from aigc_export.errors import PassError
from aigc_export.graphs import passes
from aigc_export.graphs.passes import CLEAN_UP, check_and_run, run_passes
from aigc_export.graphs.passes.onnxscript_optimize import FOLD_LIMIT_BYTES, onnxscript_optimize
from aigc_export.prepare.prepare import pass_feeds
from aigc_runtime.core.compare import Tolerance

from ...conftest import SPECS, Tiny, tensor_of, tiny_of


def but_slow(*slow: str) -> pytest.MarkDecorator:
    """Every tiny model in turn; with these it is a slow test."""
    names = [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in SPECS]
    return pytest.mark.parametrize("each", names, indirect=True)


@but_slow("unet-cross")
def test_the_passes_of_the_default_target_keep_the_function(each: Tiny) -> None:
    feeds = [each.feeds(), *pass_feeds(each.program.part, seed=3)]
    graph, reports = run_passes(each.captured.model, CLEAN_UP, feeds=feeds)
    assert [r.name for r in reports] == ["onnxscript-optimize", "onnxslim", "fold-batch-norm"]
    assert reports[-1].nodes_after < reports[0].nodes_before
    assert all(r.worst.sqnr_db >= 90 for r in reports)
    for given, actual in zip(feeds, check_and_run(graph, feeds), strict=True):
        for name, value in each.torch_outputs(given).items():
            np.testing.assert_allclose(actual[name], value, rtol=2e-4, atol=2e-5)


@but_slow("unet", "unet-cross")
def test_rules_that_begin_with_another_operator_are_left_out(each: Tiny) -> None:
    from onnxscript import optimizer

    fast, whole = copy_graph(each.captured.model), copy_graph(each.captured.model)
    onnxscript_optimize(fast)
    optimizer.optimize(whole, output_size_limit=FOLD_LIMIT_BYTES)
    assert to_proto(fast).SerializeToString() == to_proto(whole).SerializeToString()


@but_slow("unet", "unet-cross")
def test_interface_metadata_and_scopes_survive(each: Tiny) -> None:
    before = to_proto(each.captured.model)
    graph, _ = run_passes(each.captured.model, CLEAN_UP, feeds=[each.feeds()])
    after = to_proto(graph)
    for side in ("input", "output"):
        new, old = (getattr(proto.graph, side) for proto in (after, before))
        assert [(v.name, str(v.type)) for v in new] == [(v.name, str(v.type)) for v in old]
    assert {p.key: p.value for p in after.metadata_props} == {p.key: p.value for p in before.metadata_props}
    assert after.producer_name == "aigc-export"
    scoped = [n for n in after.graph.node if any(p.key == "pkg.torch.onnx.name_scopes" for p in n.metadata_props)]
    assert len(scoped) > len(after.graph.node) / 2


@but_slow("unet", "unet-cross")
def test_no_pass_changes_the_captured_graph(each: Tiny) -> None:
    before = to_proto(each.captured.model).SerializeToString()
    graph, _ = run_passes(each.captured.model, CLEAN_UP, feeds=[each.feeds()])
    assert len(graph.graph) < len(each.captured.model.graph)
    assert to_proto(each.captured.model).SerializeToString() == before


@but_slow("unet", "unet-cross")
def test_large_weights_are_written_once(each: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = [each.feeds()]
    expected, _ = run_passes(each.captured.model, CLEAN_UP, feeds=feeds)
    sizes: list[int] = []
    save = save_graph

    def saved(model: ir.Model, path: Path, *, shared: SharedWeights | None) -> list[Path]:
        files = save(model, path, shared=shared)
        assert shared is not None
        sizes.append(shared.path.stat().st_size)
        return files

    with monkeypatch.context() as patch:
        patch.setattr(passes, "EXTERNAL_THRESHOLD", 0)
        patch.setattr(passes, "save_graph", saved)
        graph, reports = run_passes(each.captured.model, CLEAN_UP, feeds=feeds)
    assert len(sizes) == 1 + len(reports)
    assert sizes[-1] < len(sizes) * sizes[0] * 0.75  # only weights that a pass made anew come to those of the first
    for one, other in zip(check_and_run(graph, feeds), check_and_run(expected, feeds), strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def scale_a_weight(model: ir.Model) -> ir.Model:
    name, value = max(model.graph.initializers.items(), key=lambda item: tensor_of(item[1]).nbytes)
    value.const_value = ir.tensor(tensor_of(value).numpy() * np.float32(1.01), name=name)
    return model


def forget_a_size(model: ir.Model) -> ir.Model:
    """What a careless fold does: right for the sizes of the example, and for no others."""
    size = ir.tensor(np.array([2, 1, 8, 8], dtype=np.int64))
    output = model.graph.outputs[0]
    constant = ir.node("Constant", [], {"value": size})
    flat = ir.node("Reshape", [output, constant.outputs[0]])
    model.graph.extend([constant, flat])
    flat.outputs[0].name, output.name = output.name, f"{output.name}_before"
    flat.outputs[0].shape, flat.outputs[0].type = output.shape, output.type
    model.graph.outputs[0] = flat.outputs[0]
    return model


def rename_an_output(model: ir.Model) -> ir.Model:
    model.graph.outputs[0].name = "other"
    return model


def drop_a_node(model: ir.Model) -> ir.Model:
    for node in list(model.graph):
        if node.op_type == "Tanh":
            model.graph.remove(node, safe=False)
    return model


def crash(model: ir.Model) -> ir.Model:
    raise KeyError("attribute 'axes'")


def make_nan(model: ir.Model) -> ir.Model:
    for name, value in model.graph.initializers.items():
        if tensor_of(value).dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(tensor_of(value).numpy() * np.float32("nan"), name=name)
    return model


@pytest.mark.parametrize(
    ("rewrite", "message"),
    [
        (scale_a_weight, r"pass 'bad' changed output 'image': .*sqnr_db is"),
        (rename_an_output, r"pass 'bad' changed the outputs from \['image'\] to \['other'\]"),
        (drop_a_node, "pass 'bad' failed: "),
        (crash, "pass 'bad' failed: .*axes"),
        (make_nan, "holds NaN or infinity"),
        (forget_a_size, r"pass 'bad' (failed|changed)"),
    ],
)
def test_a_pass_that_changes_the_function_is_stopped(rewrite: Callable[[ir.Model], ir.Model], message: str) -> None:
    tiny = tiny_of("gan")
    with pytest.raises(PassError, match=message):
        run_passes(tiny.captured.model, [("bad", rewrite)], feeds=pass_feeds(tiny.program.part, 0))


def test_a_rewrite_right_for_one_size_gets_through_with_one_size_only() -> None:
    tiny = tiny_of("gan")
    _, reports = run_passes(tiny.captured.model, [("bad", forget_a_size)], feeds=pass_feeds(tiny.program.part, 0)[:1])
    assert reports[0].nodes_after == reports[0].nodes_before + 2


def test_a_pass_without_feeds_was_not_checked() -> None:
    tiny = tiny_of("gan")
    with pytest.raises(PassError, match="was not checked"):
        run_passes(tiny.captured.model, [("same", lambda m: m)], feeds=[])


def test_the_tolerance_decides() -> None:
    tiny = tiny_of("gan")
    loose = Tolerance(min_sqnr_db=10.0)
    _, reports = run_passes(tiny.captured.model, [("bad", scale_a_weight)], feeds=[tiny.feeds()], tolerance=loose)
    assert 10 < reports[0].worst.sqnr_db < 60


@pytest.mark.parametrize("name", ["lm-growing", "lm-buffer"])
def test_the_feeds_of_the_checks_see_the_cache(name: str) -> None:
    tiny = tiny_of(name)
    for feeds in pass_feeds(tiny.program.part, seed=0):
        blind = {k: np.zeros_like(v) if k.startswith("past_") and v.ndim == 4 else v for k, v in feeds.items()}
        (with_cache,), (without,) = (check_and_run(tiny.captured.model, [f]) for f in (feeds, blind))
        assert np.abs(with_cache["logits"] - without["logits"]).max() > 1e-2
