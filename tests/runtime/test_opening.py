"""What a pipeline reads is read while its engines are loaded; a process imports no kind but that of its bundle."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigc_runtime import open_pipeline, opening
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.engine_info import EngineInfo
from aigc_runtime.pipelines import get_kind


def test_a_kind_reads_ahead_beside_the_loading(toy_bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, seen = threading.Event(), list[Any]()

    def read_ahead(settings: Any, assets: Mapping[str, bytes]) -> None:
        seen.append((settings, dict(assets), threading.current_thread() is threading.main_thread()))
        started.set()
        raise ZeroDivisionError  # which is no reason not to open the bundle

    load = opening.open_program

    def open_program(bundle: Bundle, **given: Any) -> Any:
        assert started.wait(30)
        return load(bundle, **given)

    kind = replace(get_kind("gan"), read_ahead=read_ahead)
    monkeypatch.setattr(opening, "kind_of", lambda _: kind)
    monkeypatch.setattr(opening, "open_program", open_program)
    with open_pipeline(toy_bundles / "toy_gan", threads=1) as pipeline:
        assert seen == [(pipeline.settings, {}, False)]
    assert not [thread for thread in threading.enumerate() if thread.name == "read ahead"]


def test_the_reader_has_ended_where_loading_fails(toy_bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    kind = replace(get_kind("gan"), read_ahead=lambda *_: ended.set())
    monkeypatch.setattr(opening, "kind_of", lambda _: kind)
    monkeypatch.setattr(opening, "open_program", fails)
    with pytest.raises(ZeroDivisionError):
        open_pipeline(toy_bundles / "toy_gan", threads=1)
    assert ended.is_set()


@pytest.mark.parametrize("on_cpu", [True, False])
def test_a_program_says_whether_it_runs_on_the_processor(
    on_cpu: bool, toy_bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EngineInfo, "runs_on_cpu", on_cpu)
    with Bundle.open(toy_bundles / "toy_gan") as bundle, opening.open_program(bundle, threads=1) as program:
        assert program.on_cpu is on_cpu


def test_no_other_kind_is_imported(toy_bundles: Path) -> None:
    script = """
import sys
from aigc_runtime import open_pipeline
open_pipeline(sys.argv[1], threads=1).close()
print(*sorted(name for name in sys.modules if name.startswith("aigc_runtime.pipelines.") and name.endswith("_kind")))
"""
    command = [sys.executable, "-c", script, str(toy_bundles / "toy_gan")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["aigc_runtime.pipelines.gan_kind"]
