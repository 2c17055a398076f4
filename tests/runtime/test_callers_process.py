"""Importing, opening, running and closing leave the caller's process as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = str(Path(__file__).parents[1])

WATCH = """
import sys, tempfile, os
sys.path.insert(0, sys.argv[2])
from process_state import changed, process_state
import random, numpy as np
random.seed(1); np.random.seed(2)
before = process_state()
def check(what):
    found = changed(before, process_state())
    assert not found, (what, found)
"""

RUNTIME = """
import aigc_runtime
from aigc_runtime import *
from aigc_runtime.proof.bench import bench_generation, bench_step
check("import")
import onnxruntime  # what this library does when it is imported is not ours
before = process_state()
for name in ("toy_lm_growing", "toy_unet", "toy_gan"):
    path = sys.argv[1] + "/" + name
    for threads in (1, 2):
        with open_pipeline(path, threads=threads) as pipeline:
            pipeline.generate("ab" if name.startswith("toy_lm") else [0], seed=3)
            check(name + " generated")
    bundle = Bundle.open(path)
    session = open_session(bundle, threads=2)
    assert verify_bundle(bundle, session).passed
    bench_step(session, bundle.manifest.pipeline.settings, runs=2, warmup=0)
    bench_generation(session, bundle.manifest.pipeline.settings, runs=1)
    session.close()
    try:
        session.run({})
    except EngineError:
        pass
    bundle.close()
    check(name + " closed")
    try:
        Bundle.open(path + "-gone")
    except BundleError:
        pass
    from aigc_runtime.cli.main import run
    assert run(["verify", path, "--threads", "1"]) == 0
    check(name + " verified by the command line")
"""


def run(code: str, bundles: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    return subprocess.run(
        [sys.executable, "-c", WATCH + code, str(bundles), TESTS],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="looks at POSIX state")
def test_the_runtime_changes_nothing(toy_bundles: Path, tmp_path: Path) -> None:
    done = run(RUNTIME, toy_bundles, tmp_path / "tmp")
    assert done.returncode == 0, done.stderr[-3000:]


CHANGES = [
    "os.environ['X'] = '1'",
    "import warnings; warnings.simplefilter('ignore')",
    "random.random()",
    "np.random.rand()",
    "np.seterr(all='ignore')",
    "import logging; logging.basicConfig()",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "os.chdir('/')",
    "sys.path.append('x')",
    "open(tempfile.mkstemp()[1])",
    "kept = open(os.devnull)",
]


@pytest.mark.skipif(sys.platform == "win32", reason="looks at POSIX state")
def test_every_change_would_be_seen(toy_bundles: Path, tmp_path: Path) -> None:
    seen = """
for change in CHANGES:
    before = process_state()
    exec(change)
    assert changed(before, process_state()), change
"""
    done = run(f"CHANGES = {CHANGES!r}{seen}", toy_bundles, tmp_path / "tmp")
    assert done.returncode == 0, done.stderr
