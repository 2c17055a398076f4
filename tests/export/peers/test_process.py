from __future__ import annotations

import sys
from pathlib import Path

import pytest

from aigc_export.peers.process import WorkerProcess
from aigc_runtime.errors import EngineError, EngineMissingError

TOY = Path(__file__).parent / "toy_engine.py"


def opened(form: str = "plain", **options: float) -> WorkerProcess:
    process = WorkerProcess(TOY, **options)  # type: ignore[arg-type]
    process.ask("open", folder=".", form=form, threads=1)
    return process


def test_it_answers_whatever_a_library_prints() -> None:
    with opened() as process:
        assert process.ask("version") == {"version": "1.2.3"}
        found = process.ask("generate", rows=[[1, 2, 3]], tokens=3)
    assert found["tokens"] == [3, 4, 5]
    assert len(found["steps"]) == 2
    assert min(found["steps"]) >= 0.002


def test_a_package_that_is_not_installed_is_told_from_other_failures() -> None:
    with pytest.raises(EngineMissingError, match="No module named 'toy'"):
        opened("missing")
    with opened("raises") as process:
        with pytest.raises(EngineError, match="RuntimeError: the graph is broken"):
            process.ask("generate", rows=[list(range(20))], tokens=1)
        assert process.ask("version") == {"version": "1.2.3"}  # it goes on


def test_a_process_that_ends_tells_its_last_words() -> None:
    with opened("dies") as process, pytest.raises(EngineError, match=r"ended during 'generate': .*out of toys"):
        process.ask("generate", rows=[list(range(20))], tokens=1)


def test_a_process_that_does_not_answer_is_ended() -> None:
    process = WorkerProcess(TOY, seconds=20)
    process.ask("open", folder=".", form="hangs", threads=1)
    process._seconds = 0.2
    with pytest.raises(EngineError, match="no answer to 'generate' in 0 s"):
        process.ask("generate", rows=[[1]], tokens=1)
    assert process._process.poll() is not None


def test_a_python_that_is_not_there() -> None:
    with pytest.raises(EngineMissingError, match="cannot be started"):
        WorkerProcess(TOY, python="/nowhere/python")


def test_a_command_before_a_model_is_open() -> None:
    with WorkerProcess(TOY) as process, pytest.raises(EngineError, match="no model is open"):
        process.ask("generate", rows=[[1]], tokens=1)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells it")
def test_the_peak_is_the_process_own() -> None:
    with opened() as process:
        peak = process.ask("peak")["peak"]
    assert 5e6 < peak < 200e6  # without what this process holds
