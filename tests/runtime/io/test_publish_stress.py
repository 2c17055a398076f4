"""Writers that meet, and writers that are killed: nothing is torn, lost, refused without cause, or left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


def run(mode: str, folder: Path, count: int, seed: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.runtime.publish_harness", mode, str(folder), str(count), str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.any_python
@pytest.mark.parametrize("publishes", [80, pytest.param(1000, marks=pytest.mark.stress)])
def test_eight_writers_over_names_that_begin_alike(publishes: int, tmp_path: Path) -> None:
    told = run("writers", tmp_path, publishes)
    assert told == {"publishes": publishes, "torn": [], "lost": [], "spurious": [], "left": []}


@pytest.mark.any_python
@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=[pytest.mark.stress, pytest.mark.timeout(600)])])
def test_writers_killed_at_random_moments(kills: int, tmp_path: Path) -> None:
    told = run("kills", tmp_path, kills)
    found = told.pop("found_after_kills")
    assert told == {"kills": kills, "corrupt": [], "lost": [], "spurious": [], "left": []}
    assert found["staging"] > 0  # some were killed in the middle of their work
