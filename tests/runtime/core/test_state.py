"""Carried state of every kind at once, on every back-end that runs here: what a plain loop over the history gives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.session import Session
from aigc_runtime.core.state import check_written
from aigc_runtime.core.tensors import Array, StateSpec, TensorSpec
from aigc_runtime.errors import EngineError, FeedError
from aigc_runtime.pipelines import make_pipeline

from .. import mixed, toys

KINDS = {spec.kind: spec for spec in mixed.STATE}


def arrays() -> Session:
    return ArraySession(mixed.function, mixed.INTERFACE)


def onnxruntime(bound: bool | None) -> Callable[[], Session]:
    def make() -> Session:
        pytest.importorskip("onnxruntime")
        graph = (toys.DATA / "toy_mixed.onnx").read_bytes()
        return OrtSession(graph, mixed.INTERFACE, threads=1, bound=bound)

    return make


SESSIONS: dict[str, Callable[[], Session]] = {
    "numpy": arrays,
    "onnxruntime": onnxruntime(None),
    "onnxruntime, bound": onnxruntime(True),
}


@pytest.fixture(params=SESSIONS)
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """The model on one of the sides."""
    with SESSIONS[request.param]() as made:
        yield made


def opened(like: Session, interface: Interface) -> Session:
    """A session of the same back-end, that keeps other tensors."""
    if isinstance(like, ArraySession):
        return ArraySession(mixed.function, interface)
    return OrtSession((toys.DATA / "toy_mixed.onnx").read_bytes(), interface, threads=1)


class Generation:
    """A state, and all that was fed to it."""

    def __init__(self, session: Session, rows: int) -> None:
        self.session, self.rows = session, rows
        self.state = session.new_state(rows)
        self.history: list[Array] = []

    def step(self, x: Array) -> None:
        """Run, and compare with the plain loop."""
        held = sum(one.shape[1] for one in self.history)
        assert self.state.length == held
        found = self.session.run(mixed.feeds(x, held), self.state)
        self.history.append(x)
        for name, value in mixed.expected(self.history).items():
            np.testing.assert_array_equal(found[name], value, err_msg=f"{name} of step {len(self.history)}")


def test_many_steps_agree_with_a_plain_loop(session: Session) -> None:
    rng = np.random.default_rng(0)
    for rows, lengths in ((1, [1] * 12), (3, [4, 1, 1, 3, 1, 2]), (2, [8, 4]), (4, [7, 1, 1, 1, 1, 1])):
        one = Generation(session, rows)
        for steps in lengths:
            one.step(mixed.draw(rng, rows, steps))


def test_generations_at_once_do_not_meet(session: Session) -> None:
    rng = np.random.default_rng(1)
    several = [Generation(session, rows) for rows in (1, 2, 2, 4)]
    for _ in range(9):
        for one in several:
            if sum(x.shape[1] for x in one.history) < 11:
                one.step(mixed.draw(rng, one.rows, int(rng.integers(1, 3))))


def test_generations_in_threads_do_not_meet(session: Session) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(3):
                one = Generation(session, 2)
                for steps in (3, 1, 2, 1, 1, 4):
                    one.step(mixed.draw(rng, 2, steps))
        except BaseException as err:  # noqa: BLE001 - shown by the test
            failures.append(err)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_refused_run_leaves_the_state_as_it_was(session: Session) -> None:
    rng = np.random.default_rng(2)
    one = Generation(session, 2)
    one.step(mixed.draw(rng, 2, 8))
    one.step(mixed.draw(rng, 2, 2))
    with pytest.raises(FeedError, match="3 steps do not fit: the engine's carried state of at most 12 holds 10"):
        session.run(mixed.feeds(mixed.draw(rng, 2, 3), 10), one.state)
    with pytest.raises(FeedError, match="the feeds are for past = 9, the carried state holds 10 steps"):
        session.run(mixed.feeds(mixed.draw(rng, 2, 1), 9), one.state)
    with pytest.raises(FeedError, match="the feeds have batch 1, the state was made for 2"):
        session.run(mixed.feeds(mixed.draw(rng, 1, 1), 10), one.state)
    with pytest.raises(FeedError, match="carries state, none was given"):
        session.run(mixed.feeds(mixed.draw(rng, 2, 1), 10))
    with pytest.raises(FeedError, match="a str was given"):
        session.run(mixed.feeds(mixed.draw(rng, 2, 1), 10), "state")  # type: ignore[arg-type]
    foreign = opened(session, only("window")).new_state(2)
    with pytest.raises(FeedError, match="the state is of an engine that carries other tensors"):
        session.run(mixed.feeds(mixed.draw(rng, 2, 1), 10), foreign)
    one.step(mixed.draw(rng, 2, 2))


def test_results_belong_to_the_caller(session: Session) -> None:
    rng = np.random.default_rng(3)
    one = Generation(session, 1)
    first = session.run(mixed.feeds(mixed.draw(rng, 1, 2), 0), one.state)
    kept = {name: value.copy() for name, value in first.items()}
    for held in range(2, 8):
        session.run(mixed.feeds(mixed.draw(rng, 1, 1), held), one.state)
    for name, value in first.items():
        np.testing.assert_array_equal(value, kept[name])


# -- one kind alone, whose tensors keep their shape ------------------------------------------------------------------


def only(*kinds: str) -> Interface:
    """The interface of the model with the other tensors as plain inputs and outputs."""
    rest = [spec for spec in mixed.STATE if spec.kind not in kinds]
    base = mixed.INTERFACE
    more_inputs = tuple(TensorSpec(name=s.input, dtype=s.dtype, shape=s.shape) for s in rest)
    lengths = tuple(
        TensorSpec(name=s.length_input, dtype="int64", shape=(1,)) for s in rest if s.length_input is not None
    )
    more_outputs = tuple(TensorSpec(name=s.output, dtype=s.dtype, shape=s.output_shape) for s in rest)
    return replace(
        base,
        inputs=(*base.inputs, *lengths, *more_inputs),
        outputs=(*base.outputs, *more_outputs),
        state=tuple(spec for spec in mixed.STATE if spec.kind in kinds),
    )


@pytest.mark.parametrize(
    "kinds", [("window",), ("recurrent",), ("buffer", "recurrent"), ("buffer", "window"), ("growing", "window")]
)
@pytest.mark.parametrize("bound", [False, True])
def test_some_kinds_alone_carry_what_the_caller_would_have_to(kinds: tuple[str, ...], bound: bool) -> None:
    pytest.importorskip("onnxruntime")
    interface = only(*kinds)
    session = OrtSession((toys.DATA / "toy_mixed.onnx").read_bytes(), interface, threads=1, bound=bound)
    rng = np.random.default_rng(4)
    carried = {spec.input: np.zeros(spec.empty_shape(2), np.float32) for spec in mixed.STATE}
    state, held = session.new_state(2), 0
    for steps in (2, 1, 1, 5, 1):
        x = mixed.draw(rng, 2, steps)
        values: dict[str, Array] = {**mixed.feeds(x, held), **carried}
        values.update({name: np.array([held], np.int64) for name in ("length", "taken")})
        fed = {spec.name for spec in interface.inputs}
        found = session.run({name: value for name, value in values.items() if name in fed}, state)
        wanted = mixed.function(values)
        for name, value in found.items():
            np.testing.assert_array_equal(value, wanted[name], err_msg=f"{name} after {held} steps")
        carried = {spec.input: wanted[spec.output] for spec in mixed.STATE}
        held += steps
    assert state.length == (0 if kinds == ("recurrent",) else held)


def test_a_window_is_never_full() -> None:
    session = ArraySession(mixed.function, only("window", "recurrent"))
    state = session.new_state(1)
    for held in range(0, 40, 4):
        x = np.ones((1, 4), np.float32)
        given: dict[str, Array] = {
            **mixed.feeds(x, 0),
            "growing": np.zeros((1, 0), np.float32),
            "buffer": np.zeros((1, mixed.BUFFER), np.float32),
            "length": np.zeros(1, np.int64),
        }
        assert state.length == held
        session.run(given, state)


# -- engines that give something else than they announce ------------------------------------------------------------


@pytest.mark.parametrize("output", ["grown", "moved", "replaced", "written"])
def test_a_carried_tensor_of_another_shape_is_refused(output: str) -> None:
    def wrong(values: Mapping[str, Array]) -> dict[str, Array]:
        results = mixed.function(values)
        return {**results, output: np.concatenate([results[output], results[output]], axis=1)}

    session = ArraySession(wrong, mixed.INTERFACE)
    state = session.new_state(1)
    with pytest.raises(EngineError, match=rf"the engine gave '{output}' of shape \[.*its carried state needs \["):
        session.run(mixed.feeds(np.ones((1, 2), np.float32), 0), state)
    assert state.length == 0


def test_what_a_run_must_give_back() -> None:
    shapes: dict[str, Any] = {"grown": (2, 3), "written": (2, 12), "moved": (2, 5), "replaced": (2, 2)}
    check_written(mixed.INTERFACE, 2, 3, shapes)
    with pytest.raises(EngineError, match=r"'grown' of shape \[2, 3\], its carried state needs \[2, 4\]"):
        check_written(mixed.INTERFACE, 2, 4, shapes)


def test_onnx_runtime_refuses_a_growing_tensor_that_does_not_grow() -> None:
    pytest.importorskip("onnxruntime")
    swapped = tuple(
        replace(spec, output={"growing": "seen", "window": "moved"}.get(spec.kind, spec.output)) for spec in mixed.STATE
    )
    # `last` is one number longer than the window that it is announced to be.
    state = tuple(replace(spec, output="last") if spec.kind == "window" else spec for spec in swapped)
    outputs = tuple(
        TensorSpec(name=name, dtype="float32", shape=shape)
        for name, shape in (
            ("y", ("batch", "sequence")),
            ("grown", ("batch", "past+sequence")),
            ("moved", ("batch", 5)),
        )
    )
    interface = replace(mixed.INTERFACE, outputs=outputs, state=state)
    session = OrtSession((toys.DATA / "toy_mixed.onnx").read_bytes(), interface, threads=1)
    with pytest.raises(EngineError, match=r"gave 'last' of shape \[1, 6\], its carried state needs \[1, 5\]"):
        session.run(mixed.feeds(np.ones((1, 2), np.float32), 0), session.new_state(1))


# -- a pipeline that knows nothing of it -----------------------------------------------------------------------------


def recurrent_lm(values: Mapping[str, Array]) -> dict[str, Array]:
    """The toy language model with a running sum for a cache: it also counts, to know where padding ends."""
    ids, total, count = values["input_ids"], values["total"], values["count"]
    index = count[:, None] + np.arange(ids.shape[1])
    new = np.where(index >= values["pad_length"][:, None], ids, 0).astype(np.float32)
    target = np.mod(np.cumsum(new, axis=1) + total[:, None], 256)[:, values["logits_to_keep"]]
    logits = -np.abs(np.arange(256, dtype=np.float32) - target[:, :, None])
    return {
        "logits": logits.astype(np.float32),
        "new_total": total + new.sum(axis=1),
        "new_count": count + np.float32(ids.shape[1]),
    }


def test_text_is_generated_with_a_recurrent_state_as_with_a_cache() -> None:
    state = tuple(
        StateSpec(input=name, output=f"new_{name}", dtype="float32", shape=("batch",), kind="recurrent")
        for name in ("total", "count")
    )
    interface = Interface(inputs=toys.LM_INPUTS, outputs=toys.LM_OUTPUTS, dims=toys.LM_DIMS[:3], state=state)
    texts = []
    for session in (toys.lm_session("growing"), ArraySession(recurrent_lm, interface)):
        results = make_pipeline(session, toys.TEXT).generate(["ab", "xyz!"], max_new_tokens=9, seed=0)
        texts.append([result.token_ids.tolist() for result in results])
    assert texts[0] == texts[1]
    assert len({tuple(ids) for ids in texts[0]}) == 2
