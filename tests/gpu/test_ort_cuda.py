"""`ort-cuda` on a real device: exported, proven, run, its state on the device, and for a while."""

from __future__ import annotations

import gc
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from aigc_export.line.exporter import export_model
from aigc_export.recipes.recipe import export_recipe
from aigc_export.tools.verifier import verify_against_torch
from aigc_runtime.backends.base import EngineProof
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.backends.table import engine_packages
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.reference_arrays import read_request
from aigc_runtime.core.tensors import Array
from aigc_runtime.device.probe import probe_device
from aigc_runtime.opening import open_session
from aigc_runtime.pipelines import make_pipeline
from aigc_runtime.pipelines.replay import run_request
from aigc_runtime.preflight import check_device
from aigc_runtime.proof.verify import verify_bundle

from .conftest import free_bytes

CUDA = "CUDAExecutionProvider"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not probe_device().gpus, reason="no CUDA device that a driver knows"),
    pytest.mark.skipif(
        CUDA not in onnxruntime.get_available_providers(),
        reason="ONNX Runtime was built without CUDA: pip uninstall onnxruntime; pip install 'aigc-runtime[ort-gpu]'",
    ),
]

EXPORTS: dict[str, tuple[str, dict[str, Any]]] = {
    "lm-growing": ("lm", {"cache": "growing"}),
    "lm-buffer": ("lm", {"cache": "buffer"}),
    "unet": ("unet", {}),
    "unet-any-size": ("unet", {"dynamic_size": True}),
    "gan": ("gan", {}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ort-cuda")


def exported(folder: Path, key: str, precision: str) -> Bundle:
    """The shipped model, exported once."""
    path = folder / f"{key}-{precision}"
    if not path.exists():
        name, options = EXPORTS[key]
        recipe = export_recipe(
            name,
            target="ort-cuda",
            precision=precision,
            spec_options=options,
            quality_samples=0,
            calibration_samples=None if precision == "fp32" else 32,
        )
        export_model(recipe, path)
    return Bundle.open(path)


def opened(bundle: Bundle) -> OrtSession:
    session = open_session(bundle)
    assert isinstance(session, OrtSession)
    return session


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("key", list(EXPORTS))
def test_every_model_runs_and_is_what_pytorch_computes(key: str, precision: str, folder: Path) -> None:
    bundle = exported(folder, key, precision)
    # The engine itself was judged when it was exported, and is again here on its own reference and on fresh inputs.
    assert bundle.manifest.engine.proof == EngineProof(parity="engine")
    report = verify_bundle(bundle, opened(bundle))
    assert report.passed, report.failures
    fresh = verify_against_torch(bundle, quality_samples=0, seed=5).report
    assert fresh.passed, fresh.failures


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("key", list(EXPORTS))
def test_the_provider_is_proven(key: str, precision: str, folder: Path) -> None:
    bundle = exported(folder, key, precision)
    session = opened(bundle)
    assert session.native.get_providers()[0] == CUDA
    # What is not on the device computes shapes: anything else refuses to open.
    assert session.placement[CUDA] > 0.5 * sum(session.placement.values()), session.placement
    assert check_device(bundle.manifest, probe_device(engine_packages())).runs


def lm_feeds(ids: Array, pad: list[int] | None = None) -> dict[str, Array]:
    """Feeds of a language model that ask for the logits of every place."""
    pads = np.array([0] * len(ids) if pad is None else pad, np.int64)
    return {"input_ids": ids, "pad_length": pads, "logits_to_keep": np.arange(ids.shape[1])}


@pytest.mark.parametrize("key", ["lm-growing", "lm-buffer"])
def test_state_stays_on_the_device(key: str, folder: Path) -> None:
    session = opened(exported(folder, key, "fp32"))
    state = session.new_state(2)
    places = []
    for token in (65, 66, 67):
        feeds = lm_feeds(np.full((2, 1), token, np.int64))
        session.run(feeds, state)
        assert {value.device_name() for value in state.values.values()} == {"cuda"}
        places.append({name: value.data_ptr() for name, value in state.values.items()})
    if key == "lm-buffer":
        assert places[0] == places[1] == places[2]  # in place
    else:
        assert {value.shape()[2] for value in state.values.values()} == {3}


def test_both_caches_say_the_same(folder: Path) -> None:
    sessions = [opened(exported(folder, key, "fp32")) for key in ("lm-growing", "lm-buffer")]
    states = [session.new_state(2) for session in sessions]
    rng = np.random.default_rng(0)
    for length in (7, 1, 1, 5, 1):
        ids = rng.integers(0, 256, (2, length), dtype=np.int64)
        feeds = lm_feeds(ids, [0, 3])
        growing, buffer = (s.run(feeds, state)["logits"] for s, state in zip(sessions, states, strict=True))
        np.testing.assert_allclose(growing, buffer, atol=2e-3)


def test_a_prompt_in_one_step_and_in_many_agree(folder: Path) -> None:
    """A length that the engine read once and kept, or a buffer that was copied, would show here."""
    session = opened(exported(folder, "lm-buffer", "fp32"))
    ids = np.random.default_rng(1).integers(0, 256, (1, 24), dtype=np.int64)
    whole = session.run(lm_feeds(ids), session.new_state(1))["logits"]
    state = session.new_state(1)
    single = [session.run(lm_feeds(ids[:, i : i + 1]), state)["logits"] for i in range(24)]
    np.testing.assert_allclose(np.concatenate(single, axis=1), whole, atol=2e-3)


def results(session: OrtSession, seed: int, steps: int = 40) -> list[Array]:
    """Of a language model's steps, or of a UNet's on several batches: numbers and shapes are drawn from the seed."""
    rng = np.random.default_rng(seed)
    rows = 1 + seed % 3
    found: list[Array] = []
    state = session.new_state(rows) if session.interface.state else None
    for step in range(steps):
        if state is None:
            rows = 1 + (seed + step) % 3
            feeds: dict[str, Array] = {
                "sample": rng.standard_normal((rows, 1, 16, 16), dtype=np.float32),
                "timestep": rng.integers(0, 1000, rows).astype(np.float32),
                "class_labels": rng.integers(0, 10, rows),
            }
        else:
            ids = rng.integers(0, 256, (rows, 5 + seed if step == 0 else 1), dtype=np.int64)
            feeds = lm_feeds(ids)
        found.extend(session.run(feeds, state).values())
    return found


@pytest.mark.parametrize("key", ["lm-growing", "lm-buffer", "unet"])
def test_threads_share_a_session(key: str, folder: Path) -> None:
    """Each with its own state, and at the same time: what another thread computes shows nowhere."""
    session = opened(exported(folder, key, "fp32"))
    alone = [results(session, seed) for seed in range(4)]
    for _ in range(5):
        with ThreadPoolExecutor(len(alone)) as pool:
            together = list(pool.map(lambda seed: results(session, seed), range(len(alone))))
        for mine, want in zip(together, alone, strict=True):
            for got, expected in zip(mine, want, strict=True):
                np.testing.assert_allclose(got, expected, atol=2e-3)


@pytest.mark.parametrize("key", ["lm-growing", "lm-buffer", "unet"])
def test_closing_gives_device_memory_back(key: str, folder: Path) -> None:
    bundle = exported(folder, key, "fp32")
    free = []
    for _ in range(6):
        session = opened(bundle)
        results(session, seed=2, steps=5)
        session.close()
        del session
        gc.collect()
        free.append(free_bytes())
    # The libraries keep some memory of their own from their first use on; after that nothing may add up.
    assert free[1] - free[-1] < 32 * 2**20, free


@pytest.mark.parametrize("key", ["lm-growing", "lm-buffer", "unet", "gan"])
def test_soak(key: str, folder: Path) -> None:
    """The same result every time, and no memory that is never given back."""
    bundle = exported(folder, key, "fp16")
    pipeline = make_pipeline(opened(bundle), bundle.manifest.pipeline.settings)
    request = read_request(bundle)
    (first,) = run_request(pipeline, request).values()
    for _ in range(5):
        run_request(pipeline, request)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(40):
        (again,) = run_request(pipeline, request).values()
        np.testing.assert_allclose(again, first, atol=1e-3)
    grown_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown_bytes < 64 * 2**20
