"""Every console and Python block of the README runs as it stands, in order, in one folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import tool_environment

BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[str, str]]:
    return [(kind, body) for kind, body in BLOCK.findall(text)]


def commands(body: str) -> list[str]:
    """The lines after a `$ `, with their continuations."""
    joined = body.replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]


def run_blocks(text: str, folder: Path) -> int:
    ran = 0
    for kind, body in blocks(text):
        for command in commands(body) if kind == "console" else [body]:
            argv = ["bash", "-euo", "pipefail", "-c", command] if kind == "console" else [sys.executable, "-c", command]
            done = subprocess.run(argv, cwd=folder, env=tool_environment(), capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            assert "Traceback" not in done.stderr
            ran += 1
    return ran


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_readme_does_what_it_says(root: Path, tmp_path: Path) -> None:
    assert run_blocks((root / "README.md").read_text(), tmp_path) >= 10


def test_the_readme_check_can_fail(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run_blocks("```console\n$ aigc-run info no-such-bundle\n```\n", tmp_path)
    with pytest.raises(AssertionError):
        run_blocks("```python\nraise SystemExit(1)\n```\n", tmp_path)
