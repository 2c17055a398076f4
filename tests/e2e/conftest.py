"""Bundles of the shipped models, exported once for all end-to-end tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def tool_environment() -> dict[str, str]:
    """The environment of a user who has activated the virtual environment."""
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "110"}


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles `lm`, `unet` and `gan`, made by the command line."""
    folder = tmp_path_factory.mktemp("bundles")
    for model in ("lm", "unet", "gan"):
        command = ["aigc-export", "export", model, "-o", str(folder / model), "--quality-samples", "20"]
        done = subprocess.run(command, capture_output=True, text=True, env=tool_environment(), check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT
