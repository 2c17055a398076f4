"""Every session behaves alike: the numpy one that tests and PyTorch use, and ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.core.session import Session
from aigc_runtime.errors import (
    EngineError,
    EngineMemoryError,
    EngineMissingError,
    FeedError,
    InputError,
    UnknownNameError,
)
from aigc_runtime.opening import open_session

from .. import toys

Open = Callable[[str], Session]


def bound_session(bundle: Bundle) -> OrtSession:
    """The way that values take to another device and back, on the CPU."""
    manifest = bundle.manifest
    return OrtSession(bundle.read(manifest.engine.file), manifest.interface, threads=1, bound=True)


@pytest.fixture(params=["numpy", "onnxruntime", "onnxruntime, bound"])
def open_lm(request: pytest.FixtureRequest, toy_bundles: Path) -> Open:
    """How to open the toy language model of a cache kind, on every side."""
    if request.param == "numpy":
        return toys.lm_session
    if request.param == "onnxruntime, bound":
        return lambda kind: bound_session(Bundle.open(toy_bundles / f"toy_lm_{kind}"))
    return lambda kind: open_session(Bundle.open(toy_bundles / f"toy_lm_{kind}"), threads=1)


def feeds(*rows: list[int], pad: list[int] | None = None) -> dict[str, np.ndarray]:
    return toys.lm_feeds(rows, pad)


@pytest.mark.parametrize("kind", ["growing", "buffer"])
def test_state_carries_every_token(open_lm: Open, kind: str) -> None:
    session = open_lm(kind)
    state = session.new_state(2)
    first = session.run(feeds([7, 1, 2], [0, 0, 9], pad=[0, 2]), state)["logits"]
    assert first.shape == (2, 3, 256)
    assert first[:, -1].argmax(axis=1).tolist() == [10, 9]
    assert first[0].argmax(axis=1).tolist() == [7, 8, 10]
    second = session.run(feeds([10], [9], pad=[0, 2]), state)["logits"]
    assert second[:, -1].argmax(axis=1).tolist() == [20, 18]
    assert state.length == 4


@pytest.mark.parametrize("kind", ["growing", "buffer"])
def test_two_states_of_one_session_do_not_meet(open_lm: Open, kind: str) -> None:
    session = open_lm(kind)
    a, b = session.new_state(1), session.new_state(1)
    session.run(feeds([1]), a)
    session.run(feeds([100]), b)
    assert session.run(feeds([1]), a)["logits"][0, -1].argmax() == 2
    assert session.run(feeds([1]), b)["logits"][0, -1].argmax() == 101


@pytest.mark.parametrize("kind", ["growing", "buffer"])
def test_returned_arrays_belong_to_the_caller(open_lm: Open, kind: str) -> None:
    session = open_lm(kind)
    state = session.new_state(1)
    session.run(feeds([1]), state)
    kept = session.run(feeds([1]), state)["logits"]
    before = kept.copy()
    session.run(feeds([50]), state)
    np.testing.assert_array_equal(kept, before)


@pytest.mark.parametrize("kind", ["growing", "buffer"])
def test_a_full_state_says_so_and_stays_usable(open_lm: Open, kind: str) -> None:
    session = open_lm(kind)
    state = session.new_state(1)
    session.run(feeds([1] * 30), state)
    with pytest.raises(
        FeedError, match=r"3 steps do not fit: the engine's carried state of at most 32 holds 30 already"
    ):
        session.run(feeds([1, 1, 1]), state)
    assert state.length == 30
    assert session.run(feeds([1, 1]), state)["logits"][0, -1].argmax() == 32


@pytest.mark.parametrize("batch", [0, -1, 9, True, 1.0, None])
def test_a_state_for_rows_that_the_engine_does_not_take(open_lm: Open, batch: object) -> None:
    with pytest.raises(FeedError, match=r"a state for .* rows"):
        open_lm("growing").new_state(batch)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["growing", "buffer"])
def test_threads_may_share_a_session(open_lm: Open, kind: str) -> None:
    session = open_lm(kind)
    wrong: list[str] = []

    def work(start: int) -> None:
        state, tokens = session.new_state(1), [start]
        for _ in range(20):
            best = int(session.run(feeds([tokens[-1]]), state)["logits"][0, -1].argmax())
            if best != toys.next_token(tokens):
                wrong.append(f"{start}: {best}")
            tokens.append(best)

    threads = [threading.Thread(target=work, args=(n,)) for n in (1, 2, 3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": [[1]]}, "'input_ids' is a list, not a numpy array"),
        ({"input_ids": np.array([[1]], dtype=np.int32)}, "'input_ids' has dtype <i4 (int32), expected int64"),
        ({"input_ids": np.array([[1]], dtype=">i8")}, "'input_ids' has dtype >i8 (int64), expected int64"),
        ({"input_ids": np.array([1])}, "'input_ids' has rank 1 (shape (1,)), expected rank 2"),
        ({"input_ids": np.array([[-1]])}, "'input_ids' holds values from -1 to -1"),
        ({"input_ids": np.array([[256]])}, "'input_ids' holds values from 256 to 256"),
        ({"pad_length": np.array([0, 0])}, "'pad_length' has size 2 on axis 0, expected batch = 1"),
        ({"input_ids": np.zeros((1, 0), np.int64)}, "dimension 'sequence' is 0"),
        (
            {"logits_to_keep": np.array([-1])},
            "'logits_to_keep' holds values from -1 to -1\nvalues must be in [0, sequence = 1)",
        ),
        (
            {"logits_to_keep": np.array([0, 1])},
            "'logits_to_keep' holds values from 0 to 1\nvalues must be in [0, sequence = 1)",
        ),
        ({"logits_to_keep": np.zeros(0, np.int64)}, "dimension 'kept' is 0"),
        ({"input_id": np.array([[1]])}, "unexpected ['input_id']"),
    ],
)
def test_wrong_feeds_are_named(open_lm: Open, change: dict[str, object], message: str) -> None:
    session = open_lm("growing")
    given = {**feeds([1]), **change}
    with pytest.raises(FeedError) as caught:
        session.run(given, session.new_state(1))  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_a_missing_feed_and_a_wrong_state_are_named(open_lm: Open) -> None:
    session = open_lm("growing")
    with pytest.raises(FeedError, match=r"missing \['pad_length'\]"):
        session.run({"input_ids": np.array([[1]]), "logits_to_keep": np.array([0])}, session.new_state(1))
    with pytest.raises(FeedError, match=r"carries state, none was given\npass a state from session\.new_state"):
        session.run(feeds([1]))
    with pytest.raises(FeedError, match="the feeds have batch 1, the state was made for 2"):
        session.run(feeds([1]), session.new_state(2))


def test_a_closed_session_says_so(open_lm: Open) -> None:
    session = open_lm("growing")
    state = session.new_state(1)
    session.close()
    with pytest.raises(EngineError, match="the session is closed"):
        session.run(feeds([1]), state)


def test_engine_seconds_grow(open_lm: Open) -> None:
    session = open_lm("growing")
    assert session.engine_seconds == 0
    session.run(feeds([1]), session.new_state(1))
    assert session.engine_seconds > 0


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("name", ["toy_unet", "toy_gan"])
def test_stateless_engines_agree_with_arithmetic(name: str, bound: bool, toy_bundles: Path) -> None:
    bundle = Bundle.open(toy_bundles / name)
    session = bound_session(bundle) if bound else open_session(bundle, threads=1)
    step = bundle.manifest.reference.cases[0].steps[0]
    given = {key: bundle.array(file) for key, file in step.inputs.items()}
    function = toys.unet_function if name == "toy_unet" else toys.gan_function
    for key, value in session.run(given, session.new_state(2)).items():
        np.testing.assert_allclose(value, function(given)[key], atol=1e-6)


def test_threads_below_one_and_unknown_engines_are_refused(toy_bundles: Path) -> None:
    bundle = Bundle.open(toy_bundles / "toy_gan")
    with pytest.raises(InputError, match="threads is 0"):
        open_session(bundle, threads=0)
    import dataclasses

    with pytest.raises(
        UnknownNameError,
        match=r"unknown engine 'onnxruntimes'\nvalid: onnxruntime, tensorrt, tensorrt-rtx\. Did you mean",
    ):
        dataclasses.replace(bundle.manifest.engine, kind="onnxruntimes")


def test_a_graph_that_is_not_the_announced_one_is_refused() -> None:
    graph = (toys.DATA / "toy_gan.onnx").read_bytes()
    with pytest.raises(EngineError, match=r"the graph's inputs are .*, the manifest announces"):
        OrtSession(graph, toys.unet_session().interface)
    with pytest.raises(EngineError, match="cannot load the graph"):
        OrtSession(graph[:100], toys.gan_session().interface)


def test_a_missing_engine_package_gives_its_install_line(toy_bundles: Path) -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from aigc_runtime.cli.main import run\n"
        f"sys.exit(run(['verify', {str(toy_bundles / 'toy_gan')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == EngineMissingError.exit_code
    assert "pip install 'aigc-runtime[ort]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("said", "needed"),
    [
        ("Failed to allocate memory for requested buffer of size 68719476736", ": 64.0 GiB for one value inside .*"),
        ("std::bad_alloc", ""),
    ],
)
def test_an_engine_without_memory_does_not_speak_of_the_bundle(
    said: str, needed: str, toy_bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(Bundle.open(toy_bundles / "toy_gan"), threads=1)

    def fails(_feeds: object) -> None:
        raise RuntimeError(f"Non-zero status code: {said}\n")

    monkeypatch.setattr(session, "_run_stateless", fails)
    with pytest.raises(
        EngineMemoryError, match=rf"for a run on latents \[1, 4\], class_labels \[1\]{needed}\nask"
    ) as caught:
        session.run({"latents": np.zeros((1, 4), np.float32), "class_labels": np.zeros(1, np.int64)})
    assert caught.value.exit_code == 2
    session.close()
