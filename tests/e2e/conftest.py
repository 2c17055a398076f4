"""Where the end-to-end tests find the repository and its programs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def tool_environment() -> dict[str, str]:
    """The environment of a user who has activated the virtual environment."""
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "110"}


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT
