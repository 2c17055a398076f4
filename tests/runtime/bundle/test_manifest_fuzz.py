"""Changed manifests and arrays, each used in a process of its own: documented exit codes, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.any_python
@pytest.mark.skipif(sys.platform != "linux", reason="forks, and limits memory")
@pytest.mark.parametrize(
    "mutants",
    [
        pytest.param(120, marks=pytest.mark.slow),
        pytest.param(20_000, marks=[pytest.mark.stress, pytest.mark.timeout(7200)]),
    ],
)
def test_no_mutant_ends_otherwise_than_documented(mutants: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.runtime.manifest_harness", str(tmp_path), str(mutants), "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=7200,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["wrong"] == []
    assert told["out_of_memory"] == []  # a limit of ours speaks before the system's does
    assert told["codes"]["verify 4"] > mutants // 4
    assert told["codes"]["verify 0"] > 0  # another name, other provenance: some changes are sound
