"""CUDA graphs: one capture per set of shapes and addresses, replayed afterwards, and never a stale one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_runtime.backends.trt import graphs as trt_graphs
from aigc_runtime.errors import EngineError

from ... import toys
from .rig import ALIAS, UNET, Rig, leaks, lm, lm_feeds, unet_feeds
from .simulated_gpu import SimulatedGpu, cudaError_t
from .simulated_tensorrt import Context


def run(rig: Rig, batch: int, seed: int = 0) -> None:
    feeds = unet_feeds(batch, seed)
    np.testing.assert_array_equal(rig.session.run(feeds)["model_output"], toys.unet_function(feeds)["model_output"])


def test_a_shape_is_captured_when_it_comes_again_and_then_replayed() -> None:
    rig = Rig(UNET)
    for seed in range(10):
        run(rig, 8, seed)
    assert rig.count("cudaStreamBeginCapture") == 1
    assert rig.count("cudaGraphLaunch") == 8
    assert rig.runs == 3, "one plain run, one warm-up, one capture"
    for _ in range(3):
        run(rig, 2)
    assert rig.count("cudaStreamBeginCapture") == 2
    assert rig.count("cudaGraphLaunch") == 9
    run(rig, 8)
    assert rig.count("cudaGraphLaunch") == 10
    rig.session.close()
    assert leaks(rig.gpu) == []


def test_a_shape_that_comes_once_is_not_captured() -> None:
    rig = Rig(UNET)
    for batch in range(1, 9):
        run(rig, batch)
    assert rig.count("cudaStreamBeginCapture") == 0


def test_a_buffer_that_moves_takes_its_graphs_along() -> None:
    rig = Rig(UNET)
    for _ in range(4):
        run(rig, 2)
    launched = rig.count("cudaGraphLaunch")
    run(rig, 8)
    assert rig.count("cudaGraphExecDestroy") == 1
    for seed in range(4):
        run(rig, 2, seed)
    assert rig.count("cudaStreamBeginCapture") == 2
    assert rig.count("cudaGraphLaunch") == launched + 2
    rig.session.close()
    assert leaks(rig.gpu) == []


def test_the_steady_state_allocates_nothing() -> None:
    rig = Rig(UNET)
    for batch in (8, 1, 4, 8, 1, 4, 8, 1, 4):
        run(rig, batch)
    before = [rig.count(call) for call in ("cudaMalloc", "cudaMallocHost", "cudaFree", "cudaStreamBeginCapture")]
    for seed in range(20):
        run(rig, (8, 1, 4)[seed % 3], seed)
    after = [rig.count(call) for call in ("cudaMalloc", "cudaMallocHost", "cudaFree", "cudaStreamBeginCapture")]
    assert after == before


@pytest.mark.parametrize(("plan", "captures"), [({}, 2), ({"alias": ALIAS}, 1)], ids=["two places", "in place"])
def test_decoding_into_a_buffer_replays_one_graph_per_place(plan: dict[str, Any], captures: int) -> None:
    rig, reference = Rig(lm("buffer"), **plan), lm("buffer").reference()
    state, expected = rig.session.new_state(1), reference.new_state(1)
    for n in range(20):
        got, want = rig.session.run(lm_feeds([n]), state), reference.run(lm_feeds([n]), expected)
        np.testing.assert_array_equal(got["logits"], want["logits"])
    assert rig.count("cudaStreamBeginCapture") == captures
    assert rig.count("cudaGraphLaunch") == 20 - 2 * captures


@pytest.mark.parametrize("reuse", [False, True], ids=["fresh addresses", "the same addresses again"])
def test_graphs_never_read_the_memory_of_a_state_that_ended(reuse: bool) -> None:
    gpu = SimulatedGpu(reuse_addresses=reuse)
    rig = Rig(lm("buffer"), gpu=gpu, alias=ALIAS)
    for start in range(6):
        state, tokens = rig.session.new_state(1), [start]
        for _ in range(6):
            best = int(rig.session.run(lm_feeds([tokens[-1]]), state)["logits"][0, -1].argmax())
            assert best == toys.next_token(tokens)
            tokens.append(best)
        del state
    rig.session.close()
    assert leaks(gpu) == []


def test_growing_state_is_not_captured() -> None:
    rig = Rig(lm("growing"))
    for _ in range(3):
        state = rig.session.new_state(1)
        for n in range(4):
            rig.session.run(lm_feeds([n]), state)
    assert rig.count("cudaStreamBeginCapture") == 0


def record_contexts(rig: Rig, contexts: list[Context]) -> list[Context]:
    """Append every context that the engine makes from now on."""
    make = rig.engine.create_execution_context

    def made(*arguments: Any) -> Context:
        contexts.append(make(*arguments))
        return contexts[-1]

    rig.engine.create_execution_context = made
    return contexts


def test_tensorrt_rtx_captures_by_itself_where_shapes_repeat() -> None:
    rig = Rig(UNET, rtx=True)
    contexts = record_contexts(rig, [])
    for _ in range(4):
        run(rig, 2)
    assert [context.sim_graphs for context in contexts] == [True]
    assert rig.count("cudaStreamBeginCapture") == 0
    rig = Rig(lm("growing"), rtx=True)
    record_contexts(rig, contexts)
    rig.session.run(lm_feeds([1]), rig.session.new_state(1))
    assert [context.sim_graphs for context in contexts] == [True, False]


def test_the_graph_that_was_unused_for_longest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_graphs, "MOST_GRAPHS", 2)
    rig = Rig(UNET)
    for batch in (8, 8, 1, 1, 8, 2, 2):
        run(rig, batch)
    assert rig.count("cudaGraphExecDestroy") == 1
    launched = rig.count("cudaGraphLaunch")
    run(rig, 8)
    run(rig, 2)
    assert rig.count("cudaGraphLaunch") == launched + 2
    run(rig, 1)
    assert rig.count("cudaGraphLaunch") == launched + 2, "the graph of one row is the one that went"
    rig.session.close()
    assert leaks(rig.gpu) == []


def test_an_engine_that_cannot_be_captured_runs_without_and_says_why() -> None:
    rig = Rig(UNET, capturable=False)
    for seed in range(6):
        run(rig, 2, seed)
    assert rig.count("cudaStreamBeginCapture") == 1
    assert rig.count("cudaGraphLaunch") == 0
    assert "cudaErrorStreamCaptureInvalidated" in refused(rig)
    rig.session.close()
    assert leaks(rig.gpu) == []


def test_an_engine_that_says_it_cannot_be_captured_is_believed() -> None:
    rig = Rig(UNET, says_capturable=False)
    for seed in range(4):
        run(rig, 2, seed)
    assert rig.count("cudaStreamBeginCapture") == 0
    assert refused(rig) == "TensorRT cannot capture this engine"


def refused(rig: Rig) -> str:
    with rig.session._resources.pool.lease() as lane:
        assert lane.graphs is not None
        return lane.graphs.refused


def test_a_captured_run_that_fails_leaves_no_graph() -> None:
    rig = Rig(UNET, captured_run=lambda: False)
    for seed in range(4):
        run(rig, 2, seed)
    assert rig.count("cudaGraphLaunch") == 0
    assert refused(rig) == "no reason given"
    rig.session.close()
    assert leaks(rig.gpu) == []


def test_a_captured_run_that_raises_ends_the_capture() -> None:
    def broken() -> bool:
        raise RuntimeError("inside the library")

    rig = Rig(UNET, captured_run=broken)
    run(rig, 2)
    with pytest.raises(EngineError, match="inside the library"):
        run(rig, 2)
    rig.plan.captured_run = None
    for seed in range(4):
        run(rig, 2, seed)
    assert rig.count("cudaGraphLaunch") > 0
    rig.session.close()
    assert leaks(rig.gpu) == []


def test_a_capture_that_fails_for_another_reason_is_an_error() -> None:
    rig = Rig(UNET)
    run(rig, 2)
    rig.gpu.error = cudaError_t.cudaErrorMemoryAllocation
    calls = len(rig.gpu.calls)
    run_calls = ["cudaSetDevice", *["cudaMemcpyAsync"] * 3, "cudaStreamSynchronize", "cudaStreamBeginCapture"]
    rig.gpu.fail_at = calls + len(run_calls) + 2
    with pytest.raises(EngineError, match="cannot instantiate a graph: cudaErrorMemoryAllocation"):
        run(rig, 2)
    assert rig.gpu.calls[calls : calls + 8] == [*run_calls, "cudaStreamEndCapture", "cudaGraphInstantiate"]
    run(rig, 2)
