"""References stay within the shapes that an engine takes; an engine that no reference fits is refused at the start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_export.line import attempt
from aigc_export.line.engines import reference_program
from aigc_export.line.exporter import export_model
from aigc_export.parity.reference import make_cases, make_generation
from aigc_export.targets.profiles import derive_profiles, narrowed, parse_profile
from aigc_export.targets.tensorrt.settings import BuildSettings
from aigc_models.torch_session import TorchSession
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import DimSpec
from aigc_runtime.errors import CheckpointError, ConfigError, FeedError

from ..conftest import Tiny, make_program, recipe_of, tiny_of

pytestmark = pytest.mark.usefixtures("capture_once")
Bounds = dict[str, tuple[int, int | None]]


def within(tiny: Tiny, bounds: Bounds) -> Session:
    """PyTorch with some dimensions bounded; whatever lies outside is refused by the session itself."""
    dims = [
        DimSpec(name=d.name, min=bounds[d.name][0], max=bounds[d.name][1], multiple_of=d.multiple_of)
        if d.name in bounds
        else d
        for d in tiny.program.part.interface.dims
    ]
    return ArraySession(tiny.session().call, tiny.program.part.interface.with_dims(dims))


@pytest.mark.parametrize(
    ("name", "bounds", "rows"),
    [
        ("gan", {}, [1, 4]),
        ("gan", {"batch": (1, 1)}, [1]),
        ("gan", {"batch": (4, 4)}, [4]),
        ("gan", {"batch": (3, 3)}, [3]),
        ("gan", {"batch": (6, 9)}, [6]),
        ("unet", {}, [1, 3]),
        ("unet", {"batch": (2, 2)}, [2]),
        ("unet-cross", {"batch": (1, 1), "height": (8, 8), "tokens": (5, 5)}, [1]),
        ("unet-cross", {"height": (16, 32)}, [1, 3, 1]),
        ("lm-growing", {}, [1, 2]),
        ("lm-growing", {"batch": (1, 1), "sequence": (1, 10), "past": (0, 70)}, [1]),
        ("lm-growing", {"batch": (3, 3)}, [3]),
        ("lm-buffer", {"batch": (1, 1), "sequence": (1, 10)}, [1]),
    ],
)
def test_cases_and_the_generation_fit(name: str, bounds: Bounds, rows: list[int]) -> None:
    tiny = tiny_of(name)
    session = within(tiny, bounds)
    cases = make_cases(session, tiny.program, seed=0)
    assert [len(next(iter(case.steps[0].inputs.values()))) for case in cases] == rows
    assert len({case.name for case in cases}) == len(cases)
    assert all(output.size for output in make_generation(session, tiny.program, seed=0).outputs.values())


def recipe(name: str, checkpoints: Path, *profiles: str) -> Any:
    given = tuple(parse_profile(text, number=i) for i, text in enumerate(profiles))
    build = BuildSettings(compute_capabilities=("8.6",), optimization_level=0, profiles=given)
    return recipe_of(name, checkpoints / name, target="tensorrt-rtx", precision="fp32", build=build)


@pytest.mark.parametrize("profile", ["batch=1", "batch=3", "batch=5:6:7"])
def test_an_engine_for_few_shapes_is_proven_on_those(profile: str, checkpoints: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra [rtx]")
    found = export_model(replace(recipe("gan", checkpoints, profile), checkpoint=None), tmp_path / "out")
    low, _, high = parse_profile(profile, number=0).dims["batch"]
    assert [(d.min, d.max) for d in found.bundle.manifest.interface.dims] == [(low, high)]
    assert found.report.passed
    assert found.report.tensors


def test_a_language_model_that_takes_no_single_token_is_refused_before_the_work(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra [rtx]")

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("built")

    monkeypatch.setattr(attempt, "build_engine", fail)
    with pytest.raises(ConfigError, match="no engine of these profiles can be proven") as err:
        export_model(recipe("lm", checkpoints, "prompts/batch=1:1:4,sequence=4"), tmp_path / "out")
    assert "profile for prompts" in str(err.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_shapes_between_two_profiles_are_refused(checkpoints: Path) -> None:
    """The dimensions of both together would admit what neither takes."""
    requested = recipe("gan", checkpoints, "batch=1", "batch=4:5:6")
    program = tiny_of("gan").program
    session = reference_program(program, requested).session("model")
    dims = narrowed(program.part.interface, derive_profiles(program, requested.build.profiles)).dims
    assert [(d.min, d.max) for d in dims] == [(1, 6)]
    with pytest.raises(FeedError, match="no profile of the engine takes batch 3"):
        session.run(tiny_of("gan").feeds(batch=3))


@pytest.mark.parametrize("name", ["unet", "gan", "lm-buffer"])
def test_a_model_that_gives_nan_is_refused_as_a_checkpoint_and_not_as_a_bundle(name: str) -> None:
    program = make_program(name)
    call = TorchSession(program.part).call

    def broken(values: Any) -> Any:
        return {key: array * np.float32("nan") for key, array in call(values).items()}

    session = ArraySession(broken, program.part.interface)
    with pytest.raises(CheckpointError, match=r"PyTorch cannot generate with this model: .*NaN") as caught:
        make_generation(session, program, seed=0)
    assert "bundle" not in str(caught.value)
