"""A TensorRT session on a real GPU: the bundle's own proof, state, graphs, threads, and that memory comes back."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.compare import compare_arrays, judge
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineError, FeedError
from aigc_runtime.proof.verify import verify_bundle

from .conftest import Export, Exported, free_bytes

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(1800)]

SOAK_SECONDS = float(os.environ.get("AIGC_SOAK_SECONDS", "180"))
CACHES = ("growing", "buffer")


def lm_feeds(rng: np.random.Generator, rows: int, tokens: int) -> dict[str, Array]:
    ids, pad = rng.integers(0, 256, (rows, tokens)), np.zeros(rows, np.int64)
    return {"input_ids": ids, "pad_length": pad, "logits_to_keep": np.arange(tokens)[-8:]}


def unet_feeds(rng: np.random.Generator, rows: int) -> dict[str, Array]:
    return {
        "sample": rng.standard_normal((rows, 1, 16, 16), dtype=np.float32),
        "timestep": rng.integers(0, 1000, rows).astype(np.float32),
        "class_labels": rng.integers(0, 10, rows),
    }


def assert_near(made: Exported, got: dict[str, Array], want: dict[str, Array]) -> None:
    """Within the tolerance that the bundle was published under."""
    tolerance = made.bundle.manifest.tolerances.tensor
    for name, expected in want.items():
        verdict = judge(compare_arrays(expected, got[name]), tolerance)
        assert verdict.passed, f"{name}: {verdict}"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
@pytest.mark.parametrize("model", ["lm", "unet", "gan"])
def test_a_bundle_proves_itself_on_this_gpu(export: Export, model: str, precision: str) -> None:
    made = export(model, precision)
    session = made.open()
    report = verify_bundle(made.bundle, session)
    print(f"\n{model} {precision}: {report.tensors}")
    assert report.passed
    session.close()


@pytest.mark.parametrize("cache", CACHES)
def test_carried_state_is_pytorchs(export: Export, cache: str) -> None:
    made, rng = export("lm", "fp32", cache=cache), np.random.default_rng(0)
    session = made.open()
    state, expected = session.new_state(2), made.reference.new_state(2)
    for tokens in (17, *[1] * 30, 5, 1, 1):
        feeds = lm_feeds(rng, 2, tokens)
        assert_near(made, session.run(feeds, state), made.reference.run(feeds, expected))
    assert state.length == expected.length
    session.close()


@pytest.mark.parametrize("cache", CACHES)
def test_states_do_not_meet(export: Export, cache: str) -> None:
    made, rng = export("lm", "fp32", cache=cache), np.random.default_rng(1)
    session = made.open()
    feeds = [lm_feeds(rng, 1, 8) for _ in range(4)]
    alone = []
    for each in feeds:
        state = session.new_state(1)
        alone.append([session.run(each, state)["logits"] for _ in range(3)])
    states = [session.new_state(1) for _ in feeds]
    together = [[session.run(e, s)["logits"] for e, s in zip(feeds, states, strict=True)] for _ in range(3)]
    for i, results in enumerate(alone):
        for step, result in enumerate(results):
            # Kernels may be specialized between the two; a state that met another one would be off by far more.
            np.testing.assert_allclose(together[step][i], result, rtol=1e-3, atol=1e-2)
    session.close()


def test_graphs_repeat_what_the_first_run_said(export: Export) -> None:
    made, rng = export("unet"), np.random.default_rng(2)
    session = made.open()
    feeds = {rows: unet_feeds(rng, rows) for rows in (1, 2, 7, 16)}
    first = {rows: session.run(each) for rows, each in feeds.items()}
    for rows, each in feeds.items():
        assert_near(made, first[rows], made.reference.run(each))
    for turn in range(40):
        rows = (1, 2, 7, 16)[turn % 4] if turn < 24 else 2
        for name, value in session.run(feeds[rows]).items():
            # Kernels may be specialized for a shape once it repeats; they still compute the same function.
            np.testing.assert_allclose(value, first[rows][name], rtol=1e-3, atol=1e-4)
    fresh = unet_feeds(rng, 2)
    assert_near(made, session.run(fresh), made.reference.run(fresh))
    session.close()


def test_a_shape_outside_the_profiles_is_refused(export: Export) -> None:
    session = export("unet").open()
    with pytest.raises(FeedError):
        session.run(unet_feeds(np.random.default_rng(0), 17))
    assert session.run(unet_feeds(np.random.default_rng(0), 1))
    session.close()
    with pytest.raises(EngineError, match="the session is closed"):
        session.run(unet_feeds(np.random.default_rng(0), 1))


def test_compiled_kernels_are_kept_and_read_again(export: Export, target: str, cache_home: Path) -> None:
    if target != "tensorrt-rtx":
        pytest.skip("only TensorRT-RTX compiles kernels on the device")
    made, feeds = export("unet"), unet_feeds(np.random.default_rng(3), 1)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        session = made.open()
        session.run(feeds)
        seconds.append(time.perf_counter() - started)
        session.close()
        (file,) = cache_home.iterdir()
        assert file.stat().st_size > 100
    print(f"\nopen and first run: {seconds[0]:.2f} s, with kept kernels {seconds[1]:.2f} s")


@pytest.mark.parametrize(("model", "options"), [("unet", {}), *(("lm", {"cache": cache}) for cache in CACHES)])
def test_closing_gives_device_memory_back(export: Export, model: str, options: dict[str, Any]) -> None:
    made, rng = export(model, "fp32", **options), np.random.default_rng(4)
    free = []
    for _ in range(6):
        session = made.open()
        for rows in (1, 4, 4, 4, 16):
            if model == "unet":
                session.run(unet_feeds(rng, rows))
            else:
                session.run(lm_feeds(rng, rows, 64), session.new_state(rows))
        session.close()
        del session
        gc.collect()
        free.append(free_bytes())
    # The library keeps some memory of its own from its first use on; after that nothing may add up.
    assert free[1] - free[-1] < 32 * 2**20, free


@pytest.mark.parametrize("cache", CACHES)
def test_soak(export: Export, cache: str) -> None:
    """Several threads on two sessions for minutes (AIGC_SOAK_SECONDS); every result is compared with PyTorch's."""
    lm, unet, rng = export("lm", "fp32", cache=cache), export("unet"), np.random.default_rng(5)
    text, images = lm.open(), unet.open()
    prompts = [lm_feeds(rng, rows, tokens) for rows, tokens in ((1, 5), (2, 9), (3, 30))]
    step = [lm_feeds(rng, rows, 1) for rows in (1, 2, 3)]
    pictures = [unet_feeds(rng, rows) for rows in (1, 3, 8)]
    wrong: list[str] = []
    rounds = [0] * 4
    end = time.monotonic() + SOAK_SECONDS

    def expected_text(i: int) -> list[Array]:
        state = lm.reference.new_state(i + 1)
        return [lm.reference.run(each, state)["logits"] for each in (prompts[i], *[step[i]] * 8)]

    texts = [expected_text(i) for i in range(3)]
    shown = [unet.reference.run(each)["model_output"] for each in pictures]

    def work(number: int) -> None:
        order = np.random.default_rng(number)
        try:
            while time.monotonic() < end and not wrong:
                i = int(order.integers(3))
                if number % 2:
                    assert_near(unet, images.run(pictures[i]), {"model_output": shown[i]})
                else:
                    state = text.new_state(i + 1)
                    for each, want in zip((prompts[i], *[step[i]] * 8), texts[i], strict=True):
                        assert_near(lm, text.run(each, state), {"logits": want})
                rounds[number] += 1
        except BaseException as err:  # noqa: BLE001 - reported by the test's own thread
            wrong.append(f"thread {number}, round {rounds[number]}: {err!r}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(min(20.0, SOAK_SECONDS / 4))
    early = free_bytes()
    for thread in threads:
        thread.join()
    late = free_bytes()
    text.close()
    images.close()
    print(f"\n{cache}: {sum(rounds)} rounds in {SOAK_SECONDS:.0f} s, free memory {early:,} then {late:,} bytes")
    assert wrong == []
    assert min(rounds) > 0
    assert early - late < 64 * 2**20
