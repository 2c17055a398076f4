"""An export and a verification leave the caller's process as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
sys.path.insert(0, sys.argv[2])
from process_state import changed, process_state
import random, numpy as np
import matplotlib, onnx, onnxruntime, onnxscript, torch
from aigc_export.line.exporter import export_model
from aigc_export.recipes.recipe import export_recipe
from aigc_export.tools.verifier import verify_against_torch
import aigc_calibration, aigc_export.graphs.passes, aigc_models.sources.shipped
random.seed(1); np.random.seed(2); torch.manual_seed(3)
torch.set_num_threads(1)
before = process_state()
def check(what):
    found = changed(before, process_state())
    found.pop("threads", None)  # tqdm's own monitor
    assert not found, (what, found)
result = export_model(export_recipe("gan", quality_samples=0), sys.argv[1])
with result.bundle:
    assert verify_against_torch(result.bundle, quality_samples=0, threads=1).report.passed
check("exported")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="looks at POSIX state")
def test_an_export_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "gan"), str(Path(__file__).parents[1])],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
