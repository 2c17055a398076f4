"""Verification passes on what it should, and fails on everything else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.manifest import PipelineInfo, QualityResult, Tolerances
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import BundleError, ConfigError
from aigc_runtime.opening import open_pipeline, open_session
from aigc_runtime.pipelines.replay import run_request
from aigc_runtime.proof.verify import ParityReport, check_quality, verify_bundle

from .. import toys

NAMES = ("toy_lm_growing", "toy_lm_buffer", "toy_unet", "toy_gan")


@pytest.mark.parametrize("name", NAMES)
def test_a_sound_bundle_verifies(name: str, toy_bundles: Path) -> None:
    bundle = Bundle.open(toy_bundles / name)
    report = verify_bundle(bundle, open_session(bundle, threads=1))
    assert report.passed, report.failures
    assert report.failures == ()
    assert len(report.tensors) == sum(len(s.outputs) for c in bundle.manifest.reference.cases for s in c.steps)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["passed"] is True


def wrong_session(name: str, worsen: Callable[[Array], Array]) -> ArraySession:
    base = {"toy_lm_growing": toys.lm_session(), "toy_unet": toys.unet_session(), "toy_gan": toys.gan_session()}[name]
    function = base._function
    assert function is not None

    def changed(values: Mapping[str, Array]) -> dict[str, Array]:
        return {k: v if k.startswith("present") else worsen(v) for k, v in function(values).items()}

    base._function = changed
    return base


@pytest.mark.parametrize("name", ["toy_lm_growing", "toy_unet", "toy_gan"])
@pytest.mark.parametrize(
    ("worsen", "reason"),
    [
        (lambda v: (v * 1.01).astype(np.float32), "max_over_rms is"),
        (lambda v: np.where(v == v.max(), np.float32(np.nan), v), "NaN or infinity"),
        (lambda v: v[..., :-1], "shape"),
        (lambda v: v.astype(np.int64), "dtype int64, expected float32"),
    ],
    ids=["scaled", "nan", "cut", "integer"],
)
def test_a_wrong_engine_fails(name: str, worsen: Callable[[Array], Array], reason: str, toy_bundles: Path) -> None:
    bundle = Bundle.open(toy_bundles / name)
    report = verify_bundle(bundle, wrong_session(name, worsen))
    assert not report.passed
    assert any(reason in failure for failure in report.failures), report.failures


def test_an_engine_that_forgets_its_state_fails(toy_bundles: Path) -> None:
    session = toys.lm_session()
    session._function = lambda values: toys.lm_function({**values, "past_value_0": 0 * values["past_value_0"]})
    report = verify_bundle(Bundle.open(toy_bundles / "toy_lm_growing"), session)
    assert not report.passed
    assert report.tensors[0].passed
    assert not report.tensors[1].passed


def test_a_wrong_loop_is_caught_by_the_generation_alone(toy_bundles: Path) -> None:
    bundle = Bundle.open(toy_bundles / "toy_unet")
    faster = dataclasses.replace(toys.DIFFUSION, default_steps=3)
    manifest = dataclasses.replace(bundle.manifest, pipeline=PipelineInfo.of(faster))
    report = verify_bundle(dataclasses.replace(bundle, manifest=manifest), toys.unet_session())
    assert all(check.passed for check in report.tensors)
    assert not report.passed
    assert "generation: psnr_db is" in report.failures[0]


def test_a_report_that_compared_nothing_has_failed(toy_bundles: Path) -> None:
    bundle = Bundle.open(toy_bundles / "toy_gan")
    report = verify_bundle(bundle, toys.gan_session())
    empty = dataclasses.replace(report, tensors=())
    assert isinstance(empty, ParityReport)
    assert not empty.passed
    assert empty.failures == ("no tensor was compared",)
    with pytest.raises(ConfigError, match="no tensor was compared"):
        empty.worst()


@pytest.mark.parametrize(
    ("reference", "actual", "higher", "passed"),
    [
        (0.90, 0.90, True, True),
        (0.90, 0.92, True, True),
        (0.90, 0.88, True, False),
        (2.0, 2.01, False, True),
        (2.0, 2.03, False, False),
        (2.0, 1.5, False, True),
        (2.0, float("nan"), False, False),
    ],
)
def test_quality_may_drop_by_the_limit_and_no_more(
    reference: float, actual: float, higher: bool, passed: bool, toy_bundles: Path
) -> None:
    tolerances = Bundle.open(toy_bundles / "toy_gan").manifest.tolerances
    result = QualityResult(metric="m", reference=reference, bundle=actual, higher_is_better=higher)
    (check,) = check_quality([result], tolerances)
    assert check.passed is passed


def test_a_check_without_a_limit_is_refused(toy_bundles: Path) -> None:
    bundle = Bundle.open(toy_bundles / "toy_gan")
    none = dataclasses.replace(bundle.manifest.tolerances, min_psnr_db=None, max_quality_drop=None)
    assert isinstance(none, Tolerances)
    result = QualityResult(metric="m", reference=1, bundle=1, higher_is_better=True)
    with pytest.raises(ConfigError, match="max_quality_drop"):
        check_quality([result], none)
    manifest = dataclasses.replace(bundle.manifest, tolerances=none)
    with pytest.raises(ConfigError, match="no limit for psnr_db"):
        verify_bundle(dataclasses.replace(bundle, manifest=manifest), toys.gan_session())


def test_a_request_that_does_not_fit_the_pipeline_is_named(toy_bundles: Path) -> None:
    pipeline = open_pipeline(toy_bundles / "toy_gan", threads=1)
    with pytest.raises(BundleError, match=r"request \['prompts'\] does not fit"):
        run_request(pipeline, {"prompts": ["a"]})


def test_a_request_with_sampling_is_replayed(toy_bundles: Path) -> None:
    pipeline = open_pipeline(toy_bundles / "toy_lm_growing", threads=1)
    request = {"prompts": ["a", "b"], "max_new_tokens": 4, "sampling": {"temperature": 9.0, "top_k": 5}, "seed": 1}
    tokens = run_request(pipeline, request)["tokens"]
    assert tokens.tolist() == run_request(pipeline, request)["tokens"].tolist()
    assert (tokens == -1).sum() == 2
