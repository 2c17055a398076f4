"""The blocks of code of a page, run as they stand: a page that shows what does not work fails."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[str, str]]:
    """The kind of every block, and what stands in it."""
    return [(kind, body) for kind, body in BLOCK.findall(text)]


def commands(body: str) -> list[str]:
    """The lines after a `$ `, with their continuations."""
    joined = body.replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]


def run_blocks(text: str, folder: Path, environment: Mapping[str, str]) -> int:
    """Run every console and Python block in a process of its own, in order, in one folder; returns how many."""
    ran = 0
    for kind, body in blocks(text):
        for command in commands(body) if kind == "console" else [body]:
            argv = ["bash", "-euo", "pipefail", "-c", command] if kind == "console" else [sys.executable, "-c", command]
            done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            assert "Traceback" not in done.stderr
            ran += 1
    return ran


def run_python(page: Path, text: str | None = None) -> dict[str, Any]:
    """Run the Python blocks of a page as one program, here and now, since torch is here already; returns its names.

    Args:
        page: whose lines a traceback shows.
        text: of the page; None reads it.
    """
    text = page.read_text(encoding="utf-8") if text is None else text
    names: dict[str, Any] = {"__name__": "page"}
    for found in BLOCK.finditer(text):
        if found[1] == "python":
            lines_before = text[: found.start(2)].count("\n")
            exec(compile("\n" * lines_before + found[2], str(page), "exec"), names)
    return names
