"""Limits follow the scale of the model; a user's own are recorded and shown; one that can never fail is refused."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from aigc_export.cli import run as command
from aigc_export.line.exporter import ExportResult, ParityFailedError, export_model
from aigc_export.recipes.recipe import export_recipe
from aigc_export.recipes.tolerances import parse_limits, with_user_limits
from aigc_export.tools.verifier import verify_against_torch
from aigc_export.workloads import WORKLOADS, get_workload
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.cli.main import run
from aigc_runtime.errors import AigcError, ConfigError, UnknownNameError

from ..conftest import TINY, recipe_of, write_checkpoint

pytestmark = pytest.mark.usefixtures("capture_once")


def test_no_limit_of_ours_depends_on_the_scale() -> None:
    names = {n for workload in WORKLOADS.values() for limits in workload.tolerances.values() for n in limits.limits()}
    assert names == {
        "max_over_rms",
        "min_cosine",
        "min_sqnr_db",
        "min_token_agreement",
        "min_psnr_db",
        "max_quality_drop",
        "max_kl",
        "min_top1_agreement",
    }


def scaled(name: str, layer: str, scale: float) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        module: nn.Module = TINY[name]()
        with torch.no_grad():
            for parameter in module.get_submodule(layer).parameters():
                parameter.mul_(scale)
        return module

    return make


@pytest.fixture(scope="module")
def plain_db(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], float]:
    """plain_db(model): of the worst tensor, as the model is."""

    @functools.cache
    def worst(name: str) -> float:
        folder = tmp_path_factory.mktemp(name)
        recipe = recipe_of(name, write_checkpoint(folder / "checkpoint", name))
        return export_model(recipe, folder / "out").report.worst().errors.sqnr_db

    return worst


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer", "scale"),
    [
        ("lm", "lm_head", 31.0),
        ("lm", "lm_head", 1e3),
        ("unet", "conv_out", 1e-5),
        ("unet", "conv_out", 1e3),
    ],
)
def test_a_model_of_any_scale_is_exported(
    tmp_path: Path, name: str, layer: str, scale: float, plain_db: Callable[[str], float]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", name, make=scaled(name, layer, scale))
    result = export_model(recipe_of(name, checkpoint), tmp_path / "out")
    assert result.report.worst().errors.sqnr_db == pytest.approx(plain_db(name), abs=6)
    assert verify_against_torch(result.bundle, checkpoint=checkpoint, quality_samples=0, threads=1).report.passed


def test_a_user_s_limit_takes_the_place_of_the_family_s() -> None:
    text = get_workload("text")
    limits = with_user_limits(text.tolerances["int8"], {"min_sqnr_db": 12.5, "max_over_rms": 0.9}, text)
    assert limits.limits() == {**text.tolerances["int8"].limits(), "min_sqnr_db": 12.5, "max_over_rms": 0.9}
    assert limits.set_by_user == ("max_over_rms", "min_sqnr_db")
    assert "min_sqnr_db 12.5 (set by the user)" in str(limits)
    assert str(limits).count("set by the user") == 2
    assert text.tolerances["int8"].set_by_user == ()


@pytest.mark.parametrize(
    ("chosen", "family", "message"),
    [
        ({"min_sqnr": 12.0}, "text", r"unknown limit 'min_sqnr'\nvalid: .*max_over_rms.*Did you mean 'min_sqnr_db'"),
        ({"max_abs": 1e300}, "gan", "unknown limit 'max_abs'"),
        ({"min_psnr_db": 40.0}, "text", "min_psnr_db means nothing to a text model"),
        ({"min_token_agreement": 1.0}, "gan", "min_token_agreement means nothing to a gan model"),
        ({"max_over_rms": 1e300}, "gan", "max_over_rms is 1e\\+300\nmust be at least 0 and below 1"),
        ({"min_sqnr_db": -5.0}, "gan", "min_sqnr_db is -5"),
        ({"min_cosine": 0.0}, "gan", "min_cosine is 0"),
        ({"min_psnr_db": 0.0}, "gan", "min_psnr_db is 0"),
        ({"min_token_agreement": 0.0}, "text", "min_token_agreement is 0"),
        ({"max_quality_drop": 1e6}, "text", r"max_quality_drop is 1e\+06"),
        ({"max_quality_drop": float("nan")}, "text", "max_quality_drop is nan"),
    ],
)
def test_a_limit_that_is_none_is_refused(chosen: dict[str, float], family: Any, message: str) -> None:
    name = {"text": "lm", "gan": "gan"}[family]
    with pytest.raises(AigcError, match=message):
        export_recipe(name, tolerance=chosen)


def test_limits_are_read_from_a_command_line() -> None:
    assert parse_limits(["min_sqnr_db=60", " min_cosine = 9e-1 "]) == {"min_sqnr_db": 60.0, "min_cosine": 0.9}
    for text in ("min_sqnr_db", "min_sqnr_db=", "min_sqnr_db=much", "=", ""):
        with pytest.raises(ConfigError, match=r"cannot be read\nwrite NAME=VALUE"):
            parse_limits([text])
    with pytest.raises(ConfigError, match="min_cosine is given twice"):
        parse_limits(["min_cosine=0.9", "min_cosine=0.8"])


def test_a_user_s_limit_decides_and_is_recorded_and_shown(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ParityFailedError, match=r"sqnr_db is .*, at least 390 is needed"):
        export_model(recipe_of("gan", checkpoints / "gan", tolerance={"min_sqnr_db": 390.0}), tmp_path / "strict")
    assert not (tmp_path / "strict").exists()
    out = str(tmp_path / "out")
    arguments = ["export", "gan", "--checkpoint", str(checkpoints / "gan"), "--quality-samples", "0", "-o", out]
    assert command([*arguments, "--tolerance", "min_sqnr_db=33", "--tolerance", "min_psnr_db=34"]) == 0
    limits = Bundle.open(out).manifest.tolerances
    assert limits.set_by_user == ("min_psnr_db", "min_sqnr_db")
    assert (limits.tensor.min_sqnr_db, limits.min_psnr_db) == (33.0, 34.0)
    assert limits.tensor.max_over_rms == get_workload("gan").tolerances["fp32"].tensor.max_over_rms
    for verb in ("info", "verify"):
        assert run([verb, out]) == 0
        assert "set by the user" in capsys.readouterr().out
    assert command(["inspect", out]) == 0
    assert "min_sqnr_db 33 (set by the user)" in capsys.readouterr().out


def test_verify_takes_limits_of_its_own(
    results: dict[str, ExportResult], checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["verify", str(results["gan"].bundle.path), "--checkpoint", str(checkpoints / "gan")]
    arguments += ["--quality-samples", "0", "--json"]
    assert command(arguments) == 0
    assert json.loads(capsys.readouterr().out)["tolerances"]["set_by_user"] == []
    assert command([*arguments, "--tolerance", "min_sqnr_db=390"]) == 3
    strict = json.loads(capsys.readouterr().out)
    assert strict["tolerances"]["set_by_user"] == ["min_sqnr_db"]
    assert not strict["passed"]
    with pytest.raises(UnknownNameError, match="unknown limit 'sqnr'"):
        verify_against_torch(results["gan"].bundle, checkpoint=checkpoints / "gan", tolerance={"sqnr": 1.0})
