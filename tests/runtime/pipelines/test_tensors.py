"""Engines in a row: what they are wired from, what comes out, and what is refused before any of them runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array, DimSpec, StateSpec, TensorSpec
from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.pipelines.tensors import Stage, TensorsPipeline, TensorsSettings, typical_inputs

from .. import mixed
from .. import tensor_toys as toys


def test_the_stages_run_in_a_row_and_the_loop_goes_round() -> None:
    with toys.pipeline() as pipeline:
        assert list(pipeline.inputs) == ["image", "shift"]
        assert list(pipeline.outputs) == ["gap", "picture", "label"]
        results = pipeline.generate(toys.INPUTS)
    wanted = toys.expected(toys.INPUTS)
    assert list(results) == list(wanted)
    for name, array in results.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-6)


def test_the_caller_s_arrays_stay_as_they_are() -> None:
    inputs = {name: array.copy() for name, array in toys.INPUTS.items()}
    toys.pipeline().generate(inputs)
    assert inputs.keys() == toys.INPUTS.keys()
    for name, array in inputs.items():
        np.testing.assert_array_equal(array, toys.INPUTS[name])


def test_one_engine_is_a_row_of_one() -> None:
    pipeline = TensorsPipeline(ArraySession(toys.encode, toys.INTERFACES["encoder"]), TensorsSettings())
    results = pipeline.generate({"image": toys.INPUTS["image"]})
    assert results["code"].tolist() == [[3, 9], [-2, 6]]
    assert results["scale"].tolist() == [[3], [1]]


STEPS = Interface(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", "sequence")),),
    outputs=(TensorSpec(name="total", dtype="float32", shape=("batch",)),),
    dims=(DimSpec(name="batch", max=4), DimSpec(name="sequence", max=8), DimSpec(name="past", min=0, max=64)),
    state=(
        StateSpec(
            input="past",
            output="present",
            dtype="float32",
            shape=("batch", "past"),
            axis=1,
            kind="growing",
            step_dim="sequence",
        ),
    ),
)


def accumulate(values: Mapping[str, Array]) -> dict[str, Array]:
    """The sum of all that was seen so far."""
    present = np.concatenate([values["past"], values["x"]], axis=1)
    return {"total": present.sum(axis=1), "present": present}


def test_an_engine_keeps_its_state_from_run_to_run() -> None:
    settings = TensorsSettings(stages=(Stage(repeat=5),))
    pipeline = TensorsPipeline(ArraySession(accumulate, STEPS), settings)
    x = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    for _ in range(2):  # every request begins anew
        assert pipeline.generate({"x": x})["total"].tolist() == [15, 35, 55]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.pop("shift"), r"input 'shift' is missing\nthis pipeline takes 'image' float32 \[batch, 4\], 'shi"),
        (lambda i: i.update(code=i["shift"]), "input 'code' is not known"),
        (
            lambda i: i.update(image=i["image"].astype(np.float64)),
            "input 'image' has dtype .*float64.*expected float32",
        ),
        (lambda i: i.update(shift=i["shift"].astype(np.int64)), "input 'shift' has dtype .*int64.*expected float32"),
        (lambda i: i.update(image=i["image"].tolist()), "input 'image' is a list, not a numpy array"),
        (lambda i: i.update(image=i["image"][:, :3]), "input 'image' has size 3 on axis 1, expected 4"),
        (lambda i: i.update(shift=i["shift"][0]), "input 'shift' has rank 1"),
        (lambda i: i.update(image=np.zeros((9, 4), np.float32)), "dimension 'batch' is 9\nmust be 1 to 8"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_before_anything_runs(change: Any, message: str) -> None:
    pipeline, inputs = toys.pipeline(), dict(toys.INPUTS)
    change(inputs)
    with pytest.raises(InputError, match=message):
        pipeline.generate(inputs)
    assert pipeline.program.engine_seconds == 0
    with pytest.raises(InputError, match="the inputs are a list\nmust be arrays by name"):
        pipeline.generate([])  # type: ignore[arg-type]


def renamed(engine: str, side: str, index: int, **changes: Any) -> OpenProgram:
    """The program with one tensor of one engine changed."""
    interfaces = dict(toys.INTERFACES)
    specs = list(getattr(interfaces[engine], side))
    specs[index] = replace(specs[index], **changes)
    interfaces[engine] = replace(interfaces[engine], **{side: tuple(specs)})
    return OpenProgram({name: ArraySession(toys.FUNCTIONS[name], found) for name, found in interfaces.items()})


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            renamed("decoder", "inputs", 0, name="code"),
            r"takes 'code', which stage 'loop' feeds back to itself: the fi",
        ),
        (renamed("decoder", "outputs", 0, name="gap"), "stage 'decoder' gives 'gap', a name that is taken"),
        (renamed("encoder", "outputs", 1, name="image2", shape=("batch", 3)), None),
        (renamed("encoder", "outputs", 1, shape=("batch", 3)), r"takes 'scale': 'scale' float32 \[batch, 3\] does not"),
        (renamed("loop", "inputs", 0, dtype="float16"), r"'code' float32 \[batch, 2\] does not fit 'code' float16"),
        (renamed("loop", "outputs", 0, shape=("batch", 1)), "feeds 'code_next' back to 'code': .* does not fit"),
        (renamed("loop", "outputs", 0, name="other"), "feeds 'code_next' back to 'code', its engine has no output 'co"),
    ],
)
def test_a_row_that_does_not_fit_together_is_refused(program: OpenProgram, message: str | None) -> None:
    if message is None:
        assert list(TensorsPipeline(program, toys.SETTINGS, toys.ROLES).inputs) == ["image", "scale", "shift"]
        return
    with pytest.raises(ConfigError, match=message):
        TensorsPipeline(program, toys.SETTINGS, toys.ROLES)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "a pipeline of 0 stages"),
        ((Stage(), Stage()), "two stages have the role 'model'"),
        ((Stage(repeat=3),), "stage 'model' would do the same 3 times"),
        ((Stage(repeat=2, feedback={"code": "no"}),), "its engine has no input 'no'\nit has image"),
        ((Stage(role="other"),), "a tensors pipeline with engines for model\nit needs: other"),
    ],
)
def test_stages_that_mean_nothing_are_refused(stages: tuple[Stage, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TensorsPipeline(ArraySession(toys.encode, toys.INTERFACES["encoder"]), TensorsSettings(stages=stages))


def test_a_stage_is_checked_alone() -> None:
    for wrong, message in (
        ({"repeat": 0}, "repeat is 0"),
        ({"repeat": 10_001}, "repeat is 10,001"),
        ({"feedback": {"a": "b"}}, "stage 'model' has feedback and runs once"),
        ({"repeat": 2, "feedback": {"a": "c", "b": "c"}}, "feeds two outputs back to one input"),
    ):
        with pytest.raises(ConfigError, match=message):
            Stage(**wrong)


def test_the_typical_inputs_are_zeros_that_the_engines_take() -> None:
    interface = Interface(
        inputs=(
            TensorSpec(name="ids", dtype="int64", shape=("batch", "a+b"), low=3, high=9),
            TensorSpec(name="below", dtype="int32", shape=("a",), high=-4),
            TensorSpec(name="mask", dtype="bool", shape=("batch", "b", 2)),
        ),
        outputs=(TensorSpec(name="out", dtype="int64", shape=("batch",)),),
        dims=(DimSpec(name="batch", min=2), DimSpec(name="a", multiple_of=4), DimSpec(name="b", min=0)),
    )
    pipeline = TensorsPipeline(ArraySession(lambda v: {"out": v["ids"][:, 0]}, interface), TensorsSettings())
    made = typical_inputs(pipeline)
    assert {name: array.shape for name, array in made.items()} == {"ids": (2, 5), "below": (4,), "mask": (2, 1, 2)}
    assert made["ids"].tolist() == [[3] * 5] * 2
    assert made["below"].tolist() == [-5] * 4
    assert not made["mask"].any()
    assert pipeline.generate(made)["out"].tolist() == [3, 3]


def test_a_state_goes_on_from_call_to_call() -> None:
    rng = np.random.default_rng(0)
    with TensorsPipeline(ArraySession(mixed.function, mixed.INTERFACE), TensorsSettings()) as pipeline:
        assert pipeline.carries_state
        states, histories = [pipeline.new_state(2), pipeline.new_state(2)], [list[Array](), list[Array]()]
        for steps in (3, 1, 2):
            for state, history in zip(states, histories, strict=True):
                held = sum(x.shape[1] for x in history)
                history.append(mixed.draw(rng, 2, steps))
                results = pipeline.generate(mixed.feeds(history[-1], held), state)
                for name, value in mixed.expected(history).items():
                    np.testing.assert_array_equal(results[name], value)
        anew = mixed.draw(rng, 2, 4)
        np.testing.assert_array_equal(pipeline.generate(mixed.feeds(anew, 0))["y"], mixed.expected([anew])["y"])
        with pytest.raises(InputError, match="the feeds are for past = 0, the carried state holds 6 steps"):
            pipeline.generate(mixed.feeds(anew, 0), states[0])
        with pytest.raises(InputError, match="7 steps do not fit: the engine's carried state of at most 12 holds 6"):
            pipeline.generate(mixed.feeds(mixed.draw(rng, 2, 7), 6), states[0])
        with pytest.raises(InputError, match="the feeds have batch 1, the state was made for 2"):
            pipeline.generate(mixed.feeds(mixed.draw(rng, 1, 1), 6), states[0])
        with pytest.raises(InputError, match="a state for 5 rows\nthis engine takes at most 4"):
            pipeline.new_state(5)
    assert not toys.pipeline().carries_state
