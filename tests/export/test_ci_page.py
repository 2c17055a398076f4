"""The commands of the workflow in docs/ci.md run, one after the other, and pass."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from aigc_export.cli import run
from aigc_runtime.cli.main import run as run_on_device

PAGE = Path(__file__).parents[2] / "docs" / "ci.md"


@pytest.mark.slow
def test_the_workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [shlex.split(line) for line in re.findall(r"^ +- run: (aigc-.*)$", PAGE.read_text(), re.MULTILINE)]
    assert [arguments[:2] for arguments in commands] == [
        ["aigc-export", "export"],
        ["aigc-run", "verify"],
        ["aigc-export", "verify"],
        ["aigc-export", "compare"],
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    for program, *arguments in commands:
        if arguments[0] == "compare":
            shutil.copytree("out/gan", "baseline/gan")
        assert (run if program == "aigc-export" else run_on_device)(arguments) == 0, arguments
    for name in ("export", "verify"):
        suite = ET.fromstring(Path(f"reports/{name}.xml").read_bytes())
        assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
    assert "latency increase" in capsys.readouterr().out
