"""A kind of pipeline of a third party, by entry points alone, through every verb: nothing in the house knows of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aigc_export.cli import run
from aigc_export.workloads import WORKLOADS, get_workload
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.cli.main import run as run_device
from aigc_runtime.opening import open_pipeline
from aigc_runtime.pipelines import KINDS, get_kind

from .toy_iterate.model import NAME, STEPS, WIDTH

PACKAGE = Path(__file__).parent / "toy_iterate"
ENTRY_POINTS = """
[aigc_runtime.pipelines]
iterate = toy_iterate.kind:KIND
[aigc_export.workloads]
iterate = toy_iterate.host:WORKLOAD
[aigc_export.sources]
toy = toy_iterate.model:SOURCE
"""
Capture = pytest.CaptureFixture[str]
QUICK = ["--threads", "1"]


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package in a folder on the path, with the metadata that an installer writes."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE, folder / "toy_iterate", ignore=shutil.ignore_patterns("__pycache__"))
    info = folder / "toy_iterate-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-iterate\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """precision -> bundle, from a calibration of its own."""
    folder = tmp_path_factory.mktemp("bundles")
    calibration = str(folder / "c.npz")
    quality = ["--quality-samples", "20", *QUICK]
    assert run(["calibrate", NAME, "-o", calibration, "--calibration-samples", "64", *QUICK]) == 0
    low = ["--precision", "int8", "--calibration", calibration]
    for precision, more in (("fp32", []), ("int8", low)):
        assert run(["export", NAME, "-o", str(folder / precision), *more, *quality]) == 0
    return {precision: folder / precision for precision in ("fp32", "int8")}


def test_the_house_does_not_know_it() -> None:
    assert "iterate" not in WORKLOADS
    assert "iterate" not in KINDS
    assert get_workload("iterate").kind == get_kind("iterate").name == "iterate"


def test_the_bundle_is_of_its_kind(bundles: dict[str, Path]) -> None:
    manifest = Bundle.open(bundles["int8"]).manifest
    assert manifest.pipeline.kind == "iterate"
    assert manifest.pipeline.engines == {"slope_model": "model"}
    assert manifest.precision == "int8"
    plan = {op["module"]: op for op in json.loads((bundles["int8"] / "plan.json").read_text())["ops"]}
    assert plan["enter"]["precision"] == "int8"
    # The hint of its author holds: the last layer stays float.
    assert (plan["leave"]["precision"], plan["leave"]["why"]) == ("float", "the configuration keeps it float")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_it_is_verified_on_the_host_and_on_a_device(bundles: dict[str, Path], precision: str, capsys: Capture) -> None:
    bundle = str(bundles[precision])
    assert run(["verify", bundle, "--model", NAME, "--quality-samples", "8", "--json", *QUICK]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["generation"]["metric"] == "final_sqnr_db"
    assert [paired["metric"]["name"] for paired in told["paired"]] == ["final_sqnr_db"]
    assert run_device(["verify", bundle]) == 0
    assert run(["inspect", bundle]) == 0
    assert run_device(["info", bundle]) == 0
    assert "iterate" in capsys.readouterr().out


def test_it_generates(bundles: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "x.npy"
    assert run_device(["generate", str(bundles["fp32"]), "--rows", "40", "--seed", "3", "-o", str(output)]) == 0
    found = np.load(output)
    assert found.shape == (40, WIDTH)
    with open_pipeline(bundles["fp32"]) as pipeline:
        np.testing.assert_array_equal(pipeline.generate(rows=40, seed=3), found)
    capsys.readouterr()
    assert run_device(["generate", str(bundles["fp32"]), "--prompt", "x", "-o", str(output)]) == 2
    assert "--prompt means nothing to a iterate bundle" in capsys.readouterr().err


def test_it_is_timed(bundles: dict[str, Path], capsys: Capture) -> None:
    assert run_device(["bench", str(bundles["int8"]), "--runs", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["generation"]["unit"], told["generation"]["units"]) == ("step", STEPS)


def test_it_is_compared(bundles: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    pair = [str(bundles["fp32"]), str(bundles["int8"])]
    common = ["--quality-samples", "16", "--rounds", "1", "--runs", "2", *QUICK]
    assert run(["compare", *pair, *common, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["picture"]["metric"] == "final_sqnr_db"
    assert 20 < told["paired"][0]["value"] < 60
    assert told["paired"][0]["standard_error"] > 0
    assert run(["compare", *pair, *common, "--image", str(tmp_path / "x.png")]) == 2
    assert "make no images" in capsys.readouterr().err


@pytest.mark.slow
def test_a_mix_is_searched_under_its_own_budget(tmp_path: Path, capsys: Capture) -> None:
    common = ["export", NAME, "--precision", "auto", "--calibration-samples", "32", "--quality-samples", "10", *QUICK]
    assert run([*common, "-o", str(tmp_path / "auto"), "--budget", "final>=25", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert any(candidate["chosen"] and candidate["holds"] for candidate in told["search"]["candidates"])
    assert run([*common, "-o", str(tmp_path / "never"), "--budget", "psnr>=25"]) == 2
    error = capsys.readouterr().err
    assert "limits 'psnr_db', which is not measured for this model" in error
    assert "measured for it: final" in error


def test_limits_of_what_it_does_not_make_are_refused(tmp_path: Path, capsys: Capture) -> None:
    assert run(["export", NAME, "-o", str(tmp_path / "x"), "--tolerance", "min_psnr_db=40"]) == 2
    assert "min_psnr_db means nothing to a iterate model" in capsys.readouterr().err
    assert run(["export", NAME, "-o", str(tmp_path / "x"), "--target", "tensorrt-rtx", "--precision", "fp8"]) == 2
    assert "states no tolerances for fp8" in capsys.readouterr().err
