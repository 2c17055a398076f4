"""Two exports of the same input are the same bytes, whatever the folders, the temporary files and the order of sets."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from aigc_export.cli import run

from ...processes import clean, command
from ..cli.test_group import contents, export_arguments

EPOCH = "1767225600"  # 2026-01-01 00:00:00 UTC


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"), [("gan", ()), ("lm", ("--precision", "int4", "--calibration-samples", "16"))]
)
def test_two_exports_are_equal(name: str, more: tuple[str, ...], checkpoints: Path, tmp_path: Path) -> None:
    found = []
    for number in ("1", "2"):
        folder = tmp_path / number
        (folder / "tmp").mkdir(parents=True)
        where = {"SOURCE_DATE_EPOCH": EPOCH, "PYTHONHASHSEED": number, "TMPDIR": str(folder / "tmp")}
        program = command("aigc-export", *export_arguments(name, checkpoints, folder / f"out{number}", *more))
        done = subprocess.run(program, capture_output=True, check=False, cwd=folder, env={**clean(), **where})
        assert done.returncode == 0, done.stderr
        found.append(contents(folder / f"out{number}"))
    assert found[0] == found[1]
    assert json.loads(found[0]["manifest.json"])["provenance"]["created_utc"] == "2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize("value", ["", "now", "-1", "1.5", "9" * 30])
def test_a_time_that_is_none_is_refused_before_the_work(
    value: str, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
    monkeypatch.setattr("aigc_export.line.exporter.prepare_parts", lambda *_: pytest.fail("the work began"))
    assert run(export_arguments("gan", checkpoints, tmp_path / "out")) == 2
    assert f"SOURCE_DATE_EPOCH is {value!r}" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []  # noqa: PTH208
