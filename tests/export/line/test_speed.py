"""A quantized export is timed beside fp32: a loss is refused where the precision was to save time, else told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigc_export.cli import run
from aigc_export.errors import SlowerError
from aigc_export.line import speed
from aigc_export.line.exporter import ExportResult, export_model
from aigc_export.line.speed import Speed, time_in_turn
from aigc_export.prepare.prepare import WARNING
from aigc_export.recipes.recipe import export_recipe
from aigc_export.targets.base import BuildRequest, EngineUnderTest, Target
from aigc_export.targets.ort_cpu import ORT_CPU
from aigc_runtime.backends.base import EngineProof
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.progress import Progress
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError
from aigc_runtime.system.processor import processor_name

from ..conftest import recipe_of

pytestmark = pytest.mark.usefixtures("capture_once")
SLOW, FAST = 0.006, 0.002


class Clock:
    """A clock that stands still but where it is told that time goes by, whatever else this machine does."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        """What `time.perf_counter` gives."""
        return self.now


CLOCK = Clock()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "time", CLOCK)


def stub(*, low: float, high: float, proof: EngineProof | None = None) -> Target:
    """ONNX Runtime whose engines take so many seconds at every run, by whether they are quantized."""

    def build(request: BuildRequest, folder: Path, progress: Progress | None) -> EngineUnderTest:
        made = ORT_CPU.build(request, folder, progress)
        inner, seconds = made.candidate, high if request.plan is None else low

        def waiting(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
            CLOCK.now += seconds
            return inner.run(feeds)

        engine = made.engine if proof is None else replace(made.engine, proof=proof)
        session = ArraySession(waiting, request.part.interface)
        return replace(made, engine=engine, candidate=session, unbounded=session)

    return replace(ORT_CPU, build=build)


def exported(
    checkpoints: Path, folder: Path, target: Target, **more: Any
) -> tuple[ExportResult, list[tuple[str, str]]]:
    told: list[tuple[str, str]] = []
    options = {"precision": "int8", "calibration_samples": 32, **more}
    recipe = recipe_of("gan", checkpoints / "gan", target=target, **options)
    return export_model(recipe, folder / "out", stage=lambda *what: told.append(what)), told


def losses(result: ExportResult) -> list[str]:
    """The warnings of lost time; there may be others, of few samples."""
    return [warning for warning in result.warnings if "as long as fp32" in warning]


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this processor one with, or without, instructions for products of 8-bit numbers."""
    return lambda name: monkeypatch.setattr(speed, "instruction_set", lambda: name)


def test_an_engine_that_multiplies_in_8_bits_and_is_slower_is_refused(
    checkpoints: Path, tmp_path: Path, processor: Any
) -> None:
    processor("avx512_vnni")
    with pytest.raises(SlowerError, match=r"gan for ort-cpu: int8 takes 3\.00 times as long as fp32 here") as caught:
        exported(checkpoints, tmp_path, stub(low=SLOW, high=FAST))
    assert caught.value.exit_code == 3
    assert "accept that with --allow-slower" in caught.value.hint
    assert "avx512_vnni)" in caught.value.message
    assert list(tmp_path.iterdir()) == []
    result, told = exported(checkpoints, tmp_path, stub(low=SLOW, high=FAST), allow_slower=True)
    assert result.speed is not None
    assert result.speed.is_slower
    assert losses(result) == []
    assert [text.startswith("0.") for name, text in told if name == "speed"] == [True]
    origin = result.bundle.manifest.origin
    assert origin is not None
    assert origin.has("--allow-slower")
    assert "--allow-slower" in origin.arguments(same_precision=True)
    assert "--allow-slower" not in origin.arguments(same_precision=False)


@pytest.mark.parametrize(
    ("name", "precision", "why"),
    [
        ("avx2", "int8", "without instructions for products of 8-bit numbers: 6 ms a step, fp32 2 ms"),
        (None, "int8", "without instructions for products"),
        ("avx512_vnni", "int8-weight", "and saves size alone: 6 ms"),
        ("avx512_vnni", "fp16", "and saves size alone: 6 ms"),
    ],
)
def test_elsewhere_a_loss_is_told(
    name: str | None, precision: str, why: str, checkpoints: Path, tmp_path: Path, processor: Any
) -> None:
    processor(name)
    result, told = exported(checkpoints, tmp_path, stub(low=SLOW, high=FAST), precision=precision)
    (warning,) = losses(result)
    assert warning.startswith(f"{precision} takes ")
    assert why in warning
    assert (WARNING, warning) in told


def test_what_is_faster_is_told_with_the_processor(checkpoints: Path, tmp_path: Path, processor: Any) -> None:
    processor("avx512_vnni")
    result, told = exported(checkpoints, tmp_path, stub(low=FAST, high=SLOW))
    assert result.speed is not None
    assert result.speed.ratio == pytest.approx(1 / 3)
    assert (result.speed.ms, result.speed.fp32_ms) == pytest.approx((2, 6))
    assert losses(result) == []
    (line,) = [text for name, text in told if name == "speed"]
    assert line.startswith(f"{1 / result.speed.ratio:.2f}x as fast as fp32: ")
    assert f"{processor_name()}, avx512_vnni" in line
    assert [path.name for path in result.bundle.path.iterdir() if path.name.startswith("float")] == []


def measured(ratio: float, *, error: float = 0.01, ms: float = 5.0) -> Speed:
    return Speed(ms=ms * ratio, fp32_ms=ms, ratio=ratio, ratio_error=error, rounds=9, processor="a processor")


def test_a_loss_is_one_beyond_the_noise_and_of_a_step_that_takes_a_while() -> None:
    assert measured(1.2).is_slower
    assert not measured(1.2, error=0.06).is_slower
    assert not measured(1.04, error=0.0).is_slower
    assert not measured(0.5, error=0.0).is_slower
    assert not measured(3.0, ms=0.5).is_slower


@pytest.mark.parametrize("ratios", [(1.5, 1.0), (1.5, 1.5), (1.0,)])
def test_a_loss_is_measured_twice(
    ratios: tuple[float, ...], checkpoints: Path, tmp_path: Path, processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What disturbed one measurement alone refuses nothing, and what is no loss is not measured again."""
    processor("avx512_vnni")
    left = list(ratios)
    monkeypatch.setattr(speed, "_timed", lambda *_: measured(left.pop(0)))
    if min(ratios) > 1:
        with pytest.raises(SlowerError):
            exported(checkpoints, tmp_path, ORT_CPU)
    else:
        result, _ = exported(checkpoints, tmp_path, ORT_CPU)
        assert result.speed == measured(1.0)
    assert left == []


def test_what_does_not_run_here_is_not_timed(
    checkpoints: Path, tmp_path: Path, processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor("avx512_vnni")
    result, told = exported(checkpoints, tmp_path, stub(low=SLOW, high=FAST, proof=EngineProof(parity="graph")))
    assert result.speed is None
    monkeypatch.setattr(speed, "available_memory", lambda: 0)
    result, told = exported(checkpoints, tmp_path, stub(low=SLOW, high=FAST))
    assert result.speed is None
    assert [text.startswith("not timed: there is no room") for name, text in told if name == "speed"] == [True]
    assert export_model(recipe_of("gan", checkpoints / "gan"), tmp_path / "float").speed is None


def test_both_are_timed_in_turn() -> None:
    calls: list[str] = []

    def first() -> None:
        calls.append("a")
        CLOCK.now += 0.02

    def second() -> None:
        calls.append("b")
        CLOCK.now += 0.04 + 0.001 * len(calls)  # it becomes slower and slower

    rounds = time_in_turn(first, second)
    assert speed.LEAST_ROUNDS <= len(rounds) <= speed.MOST_ROUNDS
    assert [a for a, _ in rounds] == pytest.approx([20] * len(rounds))
    assert [b for _, b in rounds] == sorted(b for _, b in rounds)
    assert "".join(calls[-2 * len(rounds) :]).startswith("abba")
    assert calls.count("a") == calls.count("b")


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_the_option_is_refused_where_nothing_reads_it(precision: str) -> None:
    with pytest.raises(ConfigError, match=f"--allow-slower changes nothing in {precision}"):
        export_recipe("gan", precision=precision, allow_slower=True)
    assert not export_recipe("gan", precision=precision, allow_slower=False).allow_slower


def test_the_command_line_has_it(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[bool] = []

    def fail(recipe: Any, *_: object, **__: object) -> None:
        seen.append(recipe.allow_slower)
        raise SlowerError("slow")

    monkeypatch.setattr("aigc_export.line.exporter.export_model", fail)
    for more in ([], ["--allow-slower"]):
        command = ["export", "gan", "--checkpoint", str(checkpoints / "gan"), "--precision", "int8", *more]
        assert run([*command, "-o", str(tmp_path / "out")]) == 3
    assert seen == [False, True]
    assert "slow" in capsys.readouterr().err
