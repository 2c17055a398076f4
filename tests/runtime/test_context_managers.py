"""Sessions, pipelines and bundles are closed at the end of a block, whatever happened in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aigc_runtime
from aigc_runtime import errors, open_pipeline
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.cli.main import run
from aigc_runtime.errors import AigcError, BundleError, ConfigError, EngineError
from aigc_runtime.opening import open_session
from aigc_runtime.pipelines.gan import GanPipeline

from . import toys

NAMES = ("toy_lm_growing", "toy_unet", "toy_gan")


@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_closes_its_session(name: str, toy_bundles: Path) -> None:
    request: Any = "ab" if name == "toy_lm_growing" else [0]
    with open_pipeline(toy_bundles / name, threads=1) as pipeline:
        assert pipeline.generate(request) is not None
    with pytest.raises(EngineError, match=r"the session is closed\nopen the bundle again"):
        pipeline.generate(request)
    pipeline.close()


def fail(code: Callable[[], object], error: type[BaseException]) -> None:
    with pytest.raises(error):
        code()


def test_an_error_inside_closes_too(toy_bundles: Path) -> None:
    kept: list[OrtSession] = []

    def work() -> None:
        with open_session(Bundle.open(toy_bundles / "toy_gan"), threads=1) as session:
            assert isinstance(session, OrtSession)
            kept.append(session)
            raise ZeroDivisionError

    fail(work, ZeroDivisionError)
    assert kept[0].native is None
    with toys.gan_session() as session:
        pass
    with pytest.raises(EngineError, match="the session is closed"):
        session.run({"latents": np.zeros((1, 4), np.float32), "class_labels": np.zeros(1, np.int64)})


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[OrtSession]:
    """Every session that is made."""
    made: list[OrtSession] = []
    init = OrtSession.__init__

    def remember(self: OrtSession, *args: object, **options: object) -> None:
        init(self, *args, **options)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(OrtSession, "__init__", remember)
    return made


@pytest.mark.parametrize("verb", ["verify", "bench", "generate"])
def test_no_verb_leaves_a_session_when_it_fails(
    verb: str, opened: list[OrtSession], toy_bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise EngineError("the engine failed")

    options = ["-o", str(tmp_path / "x.png")] if verb == "generate" else []
    arguments = [verb, str(toy_bundles / "toy_gan"), "--threads", "1", *options]
    assert run(arguments) == 0
    monkeypatch.setattr(OrtSession, "run", broken)
    assert run(arguments) == 5
    assert len(opened) >= 2
    assert all(session.native is None for session in opened)


def test_a_pipeline_that_cannot_be_made_leaves_no_session(
    opened: list[OrtSession], toy_bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ConfigError("no pipeline")

    monkeypatch.setattr("aigc_runtime.opening.make_pipeline", broken)
    with pytest.raises(ConfigError, match="no pipeline"):
        open_pipeline(toy_bundles / "toy_gan", threads=1)
    assert [session.native for session in opened] == [None]


def test_a_pipeline_may_be_pinned(toy_bundles: Path) -> None:
    path = toy_bundles / "toy_gan"
    bundle = Bundle.open(path)
    with open_pipeline(path, threads=1, expect_manifest_sha256=bundle.manifest_sha256) as pipeline:
        assert isinstance(pipeline, GanPipeline)
        assert pipeline.generate([0]).shape == (1, 1, 2, 2)
    with pytest.raises(BundleError, match="expected 00"):
        open_pipeline(path, threads=1, expect_manifest_sha256="0" * 64)
    with pytest.raises(ConfigError, match=r"expect_manifest_sha256 comes too late: the bundle is open already\ngive "):
        open_pipeline(bundle, threads=1, expect_manifest_sha256=bundle.manifest_sha256)


def test_every_error_can_be_caught_by_its_public_name() -> None:
    assert set(errors.__all__) <= set(aigc_runtime.__all__)
    assert all(issubclass(getattr(aigc_runtime, name), AigcError) for name in errors.__all__)
