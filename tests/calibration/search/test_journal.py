"""A journal keeps what was whole, and refuses what is not a journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from aigc_calibration.errors import CalibrationError
from aigc_calibration.search.journal import Journal, measuring_environment
from aigc_runtime.errors import OutputError


def test_values_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a" / "journal.jsonl"
    journal = Journal(path)
    assert journal.get("x") is None
    assert journal.remember("x", lambda: [1.5, 2]) == [1.5, 2]
    journal.put("y", {"z": 0.1})
    again = Journal(path)
    assert again.remember("x", lambda: pytest.fail("measured again")) == [1.5, 2]
    assert again.get("y") == {"z": 0.1}
    assert again.reused == 2


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_line_cut_short_is_dropped(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.put("first", 1)
    journal.put("second", 2)
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal(path)
    assert again.get("first") == 1
    assert again.get("second") is None
    again.put("third", 3)
    assert Journal(path).values == {"first": 1, "third": 3}


@pytest.mark.parametrize(
    "text",
    [
        b"hello\n",
        b'{"version": 2}\n',
        b'{"version": 1}\n{"key": 3, "value": 1}\n',
        b'{"version": 1}\n{"key": "a"}\n',
        b'{"version": 1}\n{"key": "a", "value": NaN}\n',
        b"\xff\xfe\n",
    ],
)
def test_what_is_no_journal(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(text)
    with pytest.raises(CalibrationError):
        Journal(path)
    assert path.read_bytes() == text


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="cannot use"):
        Journal(tmp_path / "file" / "journal.jsonl")
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        journal.put("x", 1)


def test_measurements_of_another_machine_or_engine_are_not_found(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path, environment="onnxruntime 1, A").put("rounds", 1.0)
    assert Journal(path, environment="onnxruntime 1, A").get("rounds") == 1.0
    assert Journal(path, environment="onnxruntime 2, A").get("rounds") is None
    assert Journal(path).get("rounds") is None


def test_the_environment_names_the_engine_and_the_machine() -> None:
    import onnxruntime

    found = measuring_environment()
    assert found.startswith(f"onnxruntime {onnxruntime.__version__}, ")
    assert found == measuring_environment()
