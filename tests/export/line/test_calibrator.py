"""A calibration in a file: what it says, that an export takes it as its own, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aigc_calibration.cache import read_calibration
from aigc_export.line.calibrator import calibrate_model
from aigc_export.line.exporter import PLAN_FILE, export_model
from aigc_export.prepare import prepare as front
from aigc_export.prepare.calibration_data import ExampleData
from aigc_export.targets.ort_cpu import ORT_CPU
from aigc_runtime.bundle.manifest import Tolerances
from aigc_runtime.core.compare import Tolerance
from aigc_runtime.errors import AigcError, ConfigError, OutputError

from ..conftest import TINY, make_program, recipe_of, tiny_gan, write_checkpoint

FILE = "c.npz"
SAMPLES = 32
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name == "unet" else name for name in TINY]
LOOSE = Tolerances(
    tensor=Tolerance(min_sqnr_db=10.0), min_token_agreement=1e-9, min_psnr_db=10.0, max_quality_drop=None
)
"""Tiny untrained models on few samples: how good they are is not the question here."""
Steps = list[tuple[str, int, int]]


pytestmark = pytest.mark.usefixtures("capture_once")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints; the generator's convolutions have 8-bit kernels."""
    folder = tmp_path_factory.mktemp("models")
    makers: dict[str, Callable[[], Any] | None] = {"lm": None, "unet": None}
    makers["gan"] = lambda: tiny_gan(image_size=16, upsampling="upsample_conv")
    for name, make in makers.items():
        write_checkpoint(folder / name, name, make=make)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for one calibration of each model."""
    return tmp_path_factory.mktemp("calibrations")


PRECISIONS = {"lm": "fp8"}
"""Of what is not calibrated in int8, which for language models is weights in blocks."""


def calibrated(name: str, models: Path, files: Path) -> Path:
    """The file of a calibration, made once."""
    path, precision = files / f"{name}.npz", PRECISIONS.get(name, "int8")
    if not path.exists():
        calibrate_model(recipe_of(name, models / name, precision=precision, calibration_samples=SAMPLES), path)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_what_a_calibration_tells(name: str, files: Path, models: Path, tmp_path: Path) -> None:
    path = calibrated(name, models, files)
    seen = read_calibration(path).statistics
    steps: Steps = []
    stages: dict[str, str] = {}
    precision = PRECISIONS.get(name, "int8")
    recipe = recipe_of(name, models / name, precision=precision, calibration_samples=SAMPLES)
    result = calibrate_model(
        recipe, tmp_path / FILE, stage=stages.__setitem__, progress=lambda *step: steps.append(step)
    )
    assert (tmp_path / FILE).read_bytes() == path.read_bytes()  # the same seed makes the same file
    assert (result.samples, seen.samples_sha256) == (SAMPLES, result.calibration.statistics.samples_sha256)
    # A window of text is a prompt and a token behind it.
    assert seen.samples == (2 * SAMPLES if name == "lm" else SAMPLES)
    told = [r.instability for r in result.ranges]
    assert told == sorted(told, reverse=True)
    assert len(told) > 1
    assert all(r.amax > 0 for r in result.ranges)
    assert [p.name for p in result.passes] == [name for name, _ in ORT_CPU.passes]
    assert {"load", "capture", "onnxslim", "calibrate", "write"} <= stages.keys()
    assert stages["calibrate"].startswith(f"{SAMPLES} samples, {seen.batches} runs, {len(seen.tensors)} values")
    phases = list(dict.fromkeys(what for what, _, _ in steps))
    first = {"lm": ["channels"], "gan": ["channels", "choice of equalization"]}.get(name, [])
    methods, choice = (["methods of ranges"], ["choice of ranges"]) if precision == "int8" else ([], [])
    order = [what for what in phases if what.startswith("order of sites")]
    assert order[:1] == (["order of sites"] if precision in {"int8", "fp8"} else [])
    assert phases == [*first, "ranges", *methods, *order, *choice]
    for phase in (*methods, *order, *choice):
        evaluations = [(done, total) for what, done, total in steps if what == phase]
        assert evaluations[-1][0] == evaluations[-1][1]
        assert [done for done, _ in evaluations] == sorted({done for done, _ in evaluations})
    if precision == "int8":
        assert result.calibration.methods.keys() <= seen.tensors.keys()
        assert stages["choose"].startswith(result.calibration.float_choice or result.calibration.choice)
    for phase in {"channels", "ranges"} & set(phases):
        counts = [(rows, total) for what, rows, total in steps if what == phase]
        assert counts[-1] == (seen.samples, seen.samples)  # the total that was announced is the one that is reached
        assert len(counts) == seen.batches


@pytest.mark.parametrize("name", NAMES)
def test_an_export_from_a_file_is_that_from_samples(
    name: str,
    files: Path,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: Steps = []
    precision = PRECISIONS.get(name, "int8")
    fresh = export_model(
        recipe_of(name, models / name, precision=precision, calibration_samples=SAMPLES, tolerances=LOOSE),
        tmp_path / "fresh",
        progress=lambda *step: steps.append(step),
    )
    assert steps

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it calibrates")

    path = calibrated(name, models, files)
    monkeypatch.setattr("aigc_calibration.quantize.calibrate", never)
    monkeypatch.setattr(front, "calibration_data", never)
    stages: dict[str, str] = {}
    recipe = recipe_of(name, models / name, precision=precision, calibration=str(path), seed=5, tolerances=LOOSE)
    cached = export_model(recipe, tmp_path / "cached", stage=stages.__setitem__)
    for file in (PLAN_FILE, "model.onnx"):
        assert cached.bundle.read(file) == fresh.bundle.read(file)
    for key in ("calibration_samples", "calibration_samples_sha256", "float_graph_sha256"):
        assert cached.bundle.manifest.provenance[key] == fresh.bundle.manifest.provenance[key]
    assert str(path) in stages["calibrate"]
    assert cached.warnings == fresh.warnings


def test_sixteen_bits_and_fp8(models: Path, tmp_path: Path) -> None:
    for precision, other in (("fp16", "bf16"), ("fp8", "int8")):
        recipe = recipe_of("gan", models / "gan", precision=precision, calibration_samples=SAMPLES)
        found = calibrate_model(recipe, tmp_path / FILE)
        assert len(found.ranges) > 3
        for use in (precision, other):
            recipe = recipe_of("gan", models / "gan", precision=use, calibration=str(tmp_path / FILE))
            assert export_model(recipe, tmp_path / use).bundle.manifest.precision == use


def refused(work: object, recipe_changes: dict[str, object], checkpoint: Path, name: str, folder: Path) -> AigcError:
    before = sorted(p.name for p in folder.iterdir())
    with pytest.raises(AigcError) as caught:
        work(recipe_of(name, checkpoint, **recipe_changes), folder / "out")  # type: ignore[operator]
    assert sorted(p.name for p in folder.iterdir()) == before
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value


def test_a_file_of_another_graph_or_kind(
    files: Path,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm, gan = str(calibrated("lm", models, files)), str(calibrated("gan", models, files))
    own = write_checkpoint(tmp_path / "own", "gan", make=tiny_gan)
    for file, checkpoint in ((lm, models / "gan"), (gan, own)):
        error = refused(export_model, {"precision": "int8", "calibration": file}, checkpoint, "gan", tmp_path)
        assert "belongs to another graph" in str(error)
    monkeypatch.setattr(front, "capture", lambda *_, **__: pytest.fail("the work has started"))
    for precision in ("fp16", "bf16"):
        error = refused(export_model, {"precision": precision, "calibration": gan}, models / "gan", "gan", tmp_path)
        assert f"was not made for {precision}" in str(error)
        assert f"--precision {precision}" in error.hint
    (tmp_path / FILE).write_bytes(Path(gan).read_bytes()[:-9])
    damaged: dict[str, Any] = {"precision": "int8", "calibration": str(tmp_path / FILE)}
    assert "is damaged" in str(refused(export_model, damaged, models / "gan", "gan", tmp_path))
    missing: dict[str, Any] = {"precision": "int8", "calibration": str(tmp_path / "nowhere.npz")}
    assert "no such file" in str(refused(export_model, missing, models / "gan", "gan", tmp_path))


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"precision": "int4"}, "int4 reads no ranges of activations", "fp16, bf16, int8, fp8, auto"),
        ({"precision": "int8-weight"}, "int8-weight reads no ranges of activations", "leave --calibration out"),
        ({"precision": "fp32"}, "fp32, which needs none", "--precision int8"),
        ({"precision": "int8", "calibration_samples": 9}, "were both given", "leave one out"),
        ({"precision": "int8", "calibration_data": "x.npz"}, "were both given", "leave one out"),
    ],
)
def test_a_file_that_nothing_would_read(changes: dict[str, str], message: str, hint: str, models: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        recipe_of("gan", models / "gan", calibration="c.npz", **changes)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp32"}, "fp32 needs no ranges"),
        ({"precision": "int4"}, "int4 needs no ranges"),
        ({"precision": "int8-weight"}, "int8-weight needs no ranges"),
        ({"precision": "auto"}, "a search reads a calibration for int8"),
        ({"precision": "int8", "calibration": "c.npz"}, "not an input of a calibration"),
    ],
)
def test_nothing_to_calibrate(changes: dict[str, Any], message: str, models: Path, tmp_path: Path) -> None:
    assert message in str(refused(calibrate_model, changes, models / "gan", "gan", tmp_path))


def test_eight_bits_of_a_language_model_have_no_ranges_to_keep(models: Path, tmp_path: Path) -> None:
    error = refused(calibrate_model, {"precision": "int8"}, models / "lm", "lm", tmp_path)
    assert "int8 needs no ranges" in str(error)
    assert error.hint == "--precision is one of fp16, bf16, fp8"
    for changes, option in (({"ranges": "kl"}, "--ranges"), ({"equalize": 0.5}, "--equalize")):
        with pytest.raises(ConfigError, match=f"{option} changes nothing in int8 .text models run it on ort-cpu as"):
            recipe_of("lm", models / "lm", precision="int8", **changes)
    with pytest.raises(ConfigError, match=r"int8 .* reads no ranges of activations") as caught:
        recipe_of("lm", models / "lm", precision="int8", calibration="c.npz")
    assert caught.value.hint == "leave --calibration out; on ort-cpu it is for fp16, bf16, fp8"
    assert recipe_of("lm", models / "lm", precision="int8", weight_method="gptq", calibration_samples=4).quantization


def test_a_place_that_cannot_be_written(models: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        calibrate_model(recipe_of("gan", models / "gan", precision="int8"), tmp_path / "file" / "c.npz")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_example_is_one_batch_for_every_input() -> None:
    for name in ("lm-growing", "unet", "gan"):
        part = make_program(name).part
        data = ExampleData(part=part)
        feeds = list(data.batches(lambda _: pytest.fail("an example needs no run")))
        assert len(feeds) == 1
        assert feeds[0].keys() == {t.name for t in part.interface.graph_inputs}
        assert data.rows == data.samples == len(feeds[0][part.interface.inputs[0].name])
