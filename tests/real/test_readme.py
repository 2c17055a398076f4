"""The README's first example, with the model that it names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tests.e2e.conftest import tool_environment

pytestmark = pytest.mark.real

_BLOCK = re.compile(r"```console real\n(.*?)```", re.DOTALL)
QUESTION = "What is the capital of France?\n"


def commands(page: str) -> list[str]:
    (block,) = _BLOCK.findall(page)
    return [line.removeprefix("$ ") for line in block.strip().splitlines()]


def test_the_first_example_does_what_it_says(smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "SmolLM2-135M-Instruct").symlink_to(smollm2)
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    said = {}
    for command in commands(page):
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=tool_environment(),
            input=QUESTION,
            capture_output=True,
            text=True,
            timeout=3000,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        said[command.split()[1]] = done.stdout
    assert "134,515,008" in said["inspect"]
    assert "Paris" in said["chat"]
    assert "Paris" in said["generate"]
