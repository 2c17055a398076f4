"""A TensorRT session over the simulated device: the same numbers as numpy, and every input that it must refuse."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import DimSpec, TensorSpec
from aigc_runtime.errors import EngineError, FeedError

from ... import toys
from .rig import ALIAS, UNET, Rig, Toy, leaks, lm, lm_feeds, unet_feeds
from .simulated_gpu import SimulatedGpu
from .simulated_tensorrt import DataType, EngineValidity

LM_KINDS = [("growing", {}), ("buffer", {}), ("buffer", {"alias": ALIAS})]
every_lm = pytest.mark.parametrize(("kind", "plan"), LM_KINDS, ids=["growing", "buffer", "in place"])
flavors = pytest.mark.parametrize("rtx", [False, True], ids=["tensorrt", "tensorrt-rtx"])


@flavors
@every_lm
def test_a_language_model_says_what_numpy_says(kind: str, plan: dict[str, Any], rtx: bool) -> None:
    rig, reference = Rig(lm(kind), rtx=rtx, **plan), lm(kind).reference()
    state, expected = rig.session.new_state(2), reference.new_state(2)
    steps = [lm_feeds([7, 1, 2], [0, 0, 9], pad=[0, 2]), *(lm_feeds([n], [n + 1], pad=[0, 2]) for n in range(12))]
    for feeds in steps:
        got, want = rig.session.run(feeds, state), reference.run(feeds, expected)
        assert got.keys() == want.keys()
        np.testing.assert_array_equal(got["logits"], want["logits"])
    assert state.length == expected.length == 15
    rig.session.close()
    del state
    assert leaks(rig.gpu) == []


@flavors
def test_images_of_many_batches_are_what_numpy_says(rtx: bool) -> None:
    rig = Rig(UNET, rtx=rtx)
    for seed, batch in enumerate([1, 4, 1, 8, 2, 2, 2, 8, 8, 1, 1, 1]):
        feeds = unet_feeds(batch, seed)
        np.testing.assert_array_equal(rig.session.run(feeds)["model_output"], toys.unet_function(feeds)["model_output"])
    rig.session.close()
    assert leaks(rig.gpu) == []


def test_feeds_that_are_not_contiguous_arrive_as_they_are() -> None:
    rig, feeds = Rig(UNET), unet_feeds(4)
    turned = {**feeds, "sample": feeds["sample"].swapaxes(2, 3)[::-1]}
    got = rig.session.run(turned)["model_output"]
    np.testing.assert_array_equal(got, toys.unet_function(turned)["model_output"])


@every_lm
def test_returned_arrays_belong_to_the_caller(kind: str, plan: dict[str, Any]) -> None:
    rig = Rig(lm(kind), **plan)
    state = rig.session.new_state(1)
    kept = [rig.session.run(lm_feeds([n]), state)["logits"] for n in range(6)]
    before = [array.copy() for array in kept]
    rig.session.run(lm_feeds([50]), state)
    rig.session.close()
    for array, copy in zip(kept, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@every_lm
def test_two_states_do_not_meet_and_each_has_its_session(kind: str, plan: dict[str, Any]) -> None:
    rig = Rig(lm(kind), **plan)
    a, b = rig.session.new_state(1), rig.session.new_state(1)
    rig.session.run(lm_feeds([1]), a)
    rig.session.run(lm_feeds([100]), b)
    assert rig.session.run(lm_feeds([1]), a)["logits"][0, -1].argmax() == 2
    assert rig.session.run(lm_feeds([1]), b)["logits"][0, -1].argmax() == 101
    with pytest.raises(FeedError, match="the state is of another session"):
        Rig(lm(kind), **plan).session.run(lm_feeds([1]), a)
    with pytest.raises(FeedError, match="a ArrayState was given"):
        rig.session.run(lm_feeds([1]), lm(kind).reference().new_state(1))


@every_lm
def test_a_full_state_and_a_wrong_batch_are_refused_and_change_nothing(kind: str, plan: dict[str, Any]) -> None:
    rig = Rig(lm(kind), **plan)
    state = rig.session.new_state(1)
    rig.session.run(lm_feeds([1] * 30), state)
    with pytest.raises(FeedError, match="3 steps do not fit: the engine's carried state of at most 32 holds 30"):
        rig.session.run(lm_feeds([1, 1, 1]), state)
    with pytest.raises(FeedError, match="the feeds have batch 2, the state was made for 1"):
        rig.session.run(lm_feeds([1], [1]), state)
    with pytest.raises(FeedError, match="carries state, none was given"):
        rig.session.run(lm_feeds([1]))
    with pytest.raises(FeedError, match="a state for 9 rows"):
        rig.session.new_state(9)
    with pytest.raises(FeedError, match="'input_ids' has dtype"):
        rig.session.run({**lm_feeds([1]), "input_ids": np.array([[1]], np.int32)}, state)
    assert rig.session.run(lm_feeds([1, 1]), state)["logits"][0, -1].argmax() == 32


def test_the_narrowest_profile_that_fits_is_run() -> None:
    rig = Rig(lm("growing"))
    state = rig.session.new_state(1)
    rig.session.run(lm_feeds([1, 2]), state)
    assert "set_optimization_profile_async" not in rig.engine.sim_calls
    for _ in range(3):
        rig.session.run(lm_feeds([1]), state)
    assert rig.engine.sim_calls.count("set_optimization_profile_async") == 1
    rig.session.run(lm_feeds([1, 2]), state)
    assert rig.engine.sim_calls.count("set_optimization_profile_async") == 2


def test_a_shape_outside_every_profile_names_the_ranges_and_never_reaches_the_engine() -> None:
    prompt = {"batch": (1, 1, 2), "kept": (1, 1, 32), "sequence": (1, 8, 32), "past": (0, 0, 0)}
    profiles = (prompt, lm("growing").profiles[1])
    rig = Rig(replace(lm("growing"), profiles=profiles))
    state = rig.session.new_state(4)
    with pytest.raises(FeedError, match=r"(?s)no profile of the engine takes .*batch 4.*profile-0: batch 1 to 2") as e:
        rig.session.run(lm_feeds([1, 2], [1, 2], [1, 2], [1, 2]), state)
    assert "export again with --profile" in str(e.value)
    assert rig.runs == 0
    assert rig.session.run(lm_feeds([1], [2], [3], [4]), state)["logits"].shape == (4, 1, 256)
    state = rig.session.new_state(1)
    rig.session.run(lm_feeds([1, 2]), state)
    with pytest.raises(FeedError, match="no profile of the engine takes batch 1, sequence 2, kept 2, past 2"):
        rig.session.run(lm_feeds([1, 2]), state)


@every_lm
def test_threads_share_a_session_each_with_its_state(kind: str, plan: dict[str, Any]) -> None:
    rig = Rig(lm(kind), most_lanes=2, **plan)
    wrong: list[str] = []

    def work(start: int) -> None:
        state, tokens = rig.session.new_state(1), [start]
        for _ in range(12):
            best = int(rig.session.run(lm_feeds([tokens[-1]]), state)["logits"][0, -1].argmax())
            if best != toys.next_token(tokens):
                wrong.append(f"{start}: {best}")
            tokens.append(best)

    threads = [threading.Thread(target=work, args=(n,)) for n in (1, 2, 3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert rig.count("cudaStreamCreateWithFlags") <= 2
    rig.session.close()
    assert leaks(rig.gpu) == []


def test_a_session_lives_on_its_own_device() -> None:
    gpu = SimulatedGpu(devices=2)
    gpu.cudaSetDevice(0)
    rig = Rig(lm("buffer"), gpu=gpu, ordinal=1)
    gpu.cudaSetDevice(0)
    state = rig.session.new_state(1)
    gpu.cudaSetDevice(0)
    assert rig.session.run(lm_feeds([5]), state)["logits"][0, 0].argmax() == 5
    assert {block.device for block in gpu.blocks.values()} == {1}
    assert rig.engine.sim_device == 1
    with pytest.raises(EngineError, match="there is no CUDA device 2"):
        Rig(UNET, gpu=gpu, ordinal=2)


def test_a_closed_session_says_so_and_may_be_closed_twice() -> None:
    rig = Rig(lm("growing"))
    state = rig.session.new_state(1)
    rig.session.close()
    rig.session.close()
    with pytest.raises(EngineError, match="the session is closed\nopen the bundle again"):
        rig.session.run(lm_feeds([1]), state)
    with pytest.raises(EngineError, match="the session is closed"):
        rig.session.new_state(1)
    assert leaks(rig.gpu) == []


def test_a_session_that_is_forgotten_gives_everything_back() -> None:
    rig = Rig(lm("growing"))
    state = rig.session.new_state(1)
    rig.session.run(lm_feeds([1]), state)
    assert leaks(rig.gpu) != []
    del rig.session, state
    assert leaks(rig.gpu) == []


def test_closing_waits_for_the_runs_that_are_under_way() -> None:
    began, go, order = threading.Event(), threading.Event(), list[str]()

    def slow(values: Any) -> Any:
        began.set()
        assert go.wait(10)
        return toys.unet_function(values)

    rig = Rig(replace(UNET, function=slow))

    def work() -> None:
        rig.session.run(unet_feeds(1))
        order.append("run")

    def close() -> None:
        rig.session.close()
        order.append("close")

    threads = [threading.Thread(target=work), threading.Thread(target=close)]
    threads[0].start()
    assert began.wait(10)
    threads[1].start()
    threads[1].join(0.1)
    assert order == []
    go.set()
    for thread in threads:
        thread.join()
    assert sorted(order) == ["close", "run"]
    with pytest.raises(EngineError, match="the session is closed"):
        rig.session.run(unet_feeds(1))
    assert leaks(rig.gpu) == []


def test_engine_seconds_grow() -> None:
    rig = Rig(UNET)
    assert rig.session.engine_seconds == 0
    rig.session.run(unet_feeds(1))
    assert rig.session.engine_seconds > 0


# -- engines that are not the announced ones ------------------------------------------------------------------------


def test_an_engine_with_other_names_or_types_is_refused() -> None:
    unet = UNET.interface
    renamed = replace(unet, inputs=(*unet.inputs[:2], replace(unet.inputs[2], name="labels")))
    with pytest.raises(
        EngineError, match=r"the engine's inputs are class_labels \(int64\).*announces labels \(int64\)"
    ):
        Rig(UNET, announced=replace(UNET, interface=renamed))
    halved = replace(unet, outputs=(replace(unet.outputs[0], dtype="float16"),))
    with pytest.raises(EngineError, match=r"outputs are model_output \(float32\), .* model_output \(float16\)"):
        Rig(UNET, announced=replace(UNET, interface=halved))


def test_an_engine_with_other_profiles_is_refused() -> None:
    with pytest.raises(EngineError, match="the engine has 1 profiles, the manifest lists 2"):
        Rig(UNET, announced=replace(UNET, profiles=(*UNET.profiles, *UNET.profiles)))
    with pytest.raises(EngineError, match=r"takes 1 to 8 on axis 0 of 'sample', the manifest says batch 1 to 4"):
        Rig(UNET, announced=replace(UNET, profiles=({"batch": (1, 1, 4)},)))


@pytest.mark.parametrize("alias", [{"logits": "past_value_0"}, {"present_value_0": "pad_length"}])
def test_an_engine_that_writes_over_the_wrong_input_is_refused(alias: dict[str, str]) -> None:
    with pytest.raises(EngineError, match=r"the engine writes '.*' into '.*'"):
        Rig(lm("buffer"), alias=alias)
    with pytest.raises(EngineError, match="the engine writes 'present_value_0' into 'past_value_0'"):
        Rig(lm("growing"), alias=ALIAS)


def test_an_engine_that_gives_the_state_in_another_form_is_refused() -> None:
    toy = lm("growing")
    inputs = dict(toy.plan().inputs)
    inputs["past_value_0"] = (DataType.BF16, inputs["past_value_0"][1])
    with pytest.raises(EngineError, match="takes 'past_value_0' in another form than it gives 'present_value_0'"):
        _rig_with(toy, inputs)


def test_an_engine_that_grows_the_state_wrongly_is_refused() -> None:
    def stuck(values: Any) -> Any:
        return {**toys.lm_function(values), "present_value_0": values["past_value_0"]}

    rig = Rig(replace(lm("growing"), function=stuck))
    state = rig.session.new_state(1)
    with pytest.raises(EngineError, match=r"writes 'present_value_0' of shape \[1, 1, 0, 1\], not \[1, 1, 1, 1\]"):
        rig.session.run(lm_feeds([1]), state)
    assert state.length == 0


def test_a_type_that_cannot_be_passed_is_named() -> None:
    plan = UNET.plan()
    inputs = {**plan.inputs, "sample": (DataType.INT4, plan.inputs["sample"][1])}
    toy = replace(UNET, function=toys.unet_function)
    with pytest.raises(EngineError, match="'sample' has type INT4, which this runtime cannot pass"):
        _rig_with(toy, inputs)


def _rig_with(toy: Toy, inputs: dict[str, Any], **changed: Any) -> Rig:
    class Changed(Toy):
        def plan(self, **changes: Any) -> Any:
            return replace(super().plan(**changes), inputs=inputs, **changed)

    return Rig(Changed(**{name: getattr(toy, name) for name in toy.__dataclass_fields__}))


def test_tensorrt_rtx_says_why_an_engine_is_invalid() -> None:
    with pytest.raises(EngineError, match="does not run on this device: VERSION_MISMATCH, UNSUPPORTED_CC"):
        Rig(UNET, rtx=True, validity=EngineValidity.INVALID, diagnostics=3)
    assert Rig(UNET, rtx=True, validity=EngineValidity.SUBOPTIMAL).session.run(unet_feeds(1))


def test_what_the_library_says_is_in_the_message() -> None:
    rig = Rig(UNET, fail_after=1)
    rig.session.run(unet_feeds(1))
    with pytest.raises(EngineError, match=r"failed: a kernel failed\nrun `aigc-run verify`"):
        rig.session.run(unet_feeds(1))
    rig = Rig(UNET)
    rig.engine.sim_refuse_contexts = True
    with pytest.raises(EngineError, match="cannot prepare to run the engine: no memory for activations"):
        rig.session.run(unet_feeds(1))
    rig.engine.sim_refuse_contexts = False
    assert rig.session.run(unet_feeds(1))
    rig.session.close()
    assert leaks(rig.gpu) == []


def test_weights_are_streamed_where_the_engine_was_built_for_it() -> None:
    assert Rig(UNET, streamable=100).engine.weight_streaming_budget_v2 == 100
    rig = Rig(UNET, streamable=100, build={"weight_streaming": True})
    assert rig.engine.weight_streaming_budget_v2 == 50


# -- tensors that are not plain -------------------------------------------------------------------------------------

HALVES = (TensorSpec(name="x", dtype="float32", shape=("batch", 3)),)
DOUBLED = (TensorSpec(name="y", dtype="float32", shape=("batch", 3)),)
PLAIN = Toy(
    function=lambda v: {"y": v["x"] * np.float32(2)},
    interface=Interface(inputs=HALVES, outputs=DOUBLED, dims=(DimSpec(name="batch", min=0, max=4),)),
    profiles=({"batch": (0, 1, 4)},),
)


def test_bfloat16_is_passed_as_float32() -> None:
    rig = _rig_with(PLAIN, {"x": (DataType.BF16, ("batch", 3))})
    x = np.array([[1, -2.5, 3.140625]], np.float32)
    np.testing.assert_array_equal(rig.session.run({"x": x})["y"], 2 * x)
    assert [b for b in rig.gpu.blocks.values() if len(b.data) == 6], "the input takes two bytes per element"


def test_carried_state_of_bfloat16_stays_as_it_is_on_the_device() -> None:
    toy = lm("growing")
    plan = toy.plan()
    kind = (DataType.BF16, plan.inputs["past_value_0"][1])
    inputs = {**plan.inputs, "past_value_0": kind}
    rig = _rig_with(toy, inputs, outputs={**plan.outputs, "present_value_0": kind})
    reference = toy.reference()
    state, expected = rig.session.new_state(2), reference.new_state(2)
    for n in range(12):
        feeds = lm_feeds([n], [n + 100])
        np.testing.assert_array_equal(rig.session.run(feeds, state)["logits"], reference.run(feeds, expected)["logits"])
    (tensor,) = state.tensors
    assert max(tensor.past.size, tensor.present.size) <= 2 * 32 * 2, "two bytes per element"


def test_tensors_without_elements_have_an_address() -> None:
    rig = Rig(PLAIN)
    assert rig.session.run({"x": np.zeros((0, 3), np.float32)})["y"].shape == (0, 3)
    np.testing.assert_array_equal(rig.session.run({"x": np.ones((2, 3), np.float32)})["y"], np.full((2, 3), 2.0))


def test_an_output_that_is_written_over_an_input_comes_from_there() -> None:
    rig = Rig(PLAIN, alias={"y": "x"})
    for n in range(5):
        x = np.full((2, 3), n, np.float32)
        np.testing.assert_array_equal(rig.session.run({"x": x})["y"], 2 * x)


@flavors
def test_outputs_whose_size_depends_on_the_data(rtx: bool) -> None:
    keep = replace(PLAIN, function=lambda v: {"y": v["x"][v["x"][:, 0] > 0]})
    rig = Rig(keep, rtx=rtx, data_dependent={"y"})
    for rows in ([1, -1], [1, 1, 1, 1], [-1], [1], [1], [1]):
        x = np.array([[r] * 3 for r in rows], np.float32)
        np.testing.assert_array_equal(rig.session.run({"x": x})["y"], x[x[:, 0] > 0])
    assert rig.count("cudaStreamBeginCapture") == 0
    rig.session.close()
    assert leaks(rig.gpu) == []


def test_no_memory_for_such_an_output_is_told() -> None:
    keep = replace(PLAIN, function=lambda v: {"y": np.zeros((10 ** int(v["x"][0, 0]), 3), np.float32)})
    rig = Rig(keep, gpu=SimulatedGpu(limit=10**6), data_dependent={"y"})
    with pytest.raises(EngineError, match=r"cannot allocate 12,000,000 bytes on the device: cudaErrorMemoryAllocation"):
        rig.session.run({"x": np.full((1, 3), 6, np.float32)})
    assert rig.session.run({"x": np.ones((1, 3), np.float32)})["y"].shape == (10, 3)


def test_values_that_decide_shapes_stay_on_the_host() -> None:
    toy = Toy(
        function=lambda v: {"y": np.repeat(v["x"], 2, axis=0)[: int(v["rows"][0])]},
        interface=replace(PLAIN.interface, inputs=(*HALVES, TensorSpec(name="rows", dtype="int64", shape=(1,)))),
        profiles=PLAIN.profiles,
    )
    rig = Rig(toy, host={"rows"})
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for rows in (1, 3, 2, 2, 2, 0):
        got = rig.session.run({"x": x, "rows": np.array([rows])})["y"]
        np.testing.assert_array_equal(got, np.repeat(x, 2, axis=0)[:rows])
    assert rig.count("cudaStreamBeginCapture") == 0
