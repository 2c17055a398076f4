"""The runtime on the Pythons that devices have, with only numpy, onnxruntime and pytest beside it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PYTHONS = ("3.10", *(pytest.param(version, marks=pytest.mark.stress) for version in ("3.12", "3.13")))
"""The oldest every time; 3.11 is the one that all tests run on."""
MIN_TESTS = 1000
"""Of more than 3,000: the first and the last case of each parametrized test, and every other test."""
PROBE = "import sys; print('%d.%d' % sys.version_info[:2])"


def find_python(version: str) -> str | None:
    """An interpreter of that version: on the path, or among pyenv's."""
    candidates = [shutil.which(f"python{version}")]
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += [str(p / "bin" / "python") for p in sorted(versions.glob(f"{version}.*"))]
    for candidate in candidates:
        if candidate is None:
            continue
        # A pyenv shim is on the path for versions that are not switched on; only one that runs counts.
        done = subprocess.run([candidate, "-c", PROBE], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip() == version:
            return candidate
    return None


def bare_environment(python: str, version: str, root: Path) -> Path:
    """A virtual environment for that interpreter, made once for one set of versions."""
    pins = root / "tests" / "runtime" / "bare-constraints.txt"
    stamp = hashlib.sha256(pins.read_bytes()).hexdigest()[:12]
    folder = root / "build" / f"bare-{version}-{stamp}"
    ready = folder / "ready"
    if not ready.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, "-m", "venv", str(folder)], check=True, capture_output=True)
        install = [str(folder / "bin" / "pip"), "install", "--quiet", "--constraint", str(pins)]
        subprocess.run([*install, "numpy", "onnxruntime", "pytest"], check=True, capture_output=True)
        ready.touch()
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", PYTHONS)
def test_the_runtimes_own_tests_pass_in_a_bare_environment(version: str, root: Path) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    bare = bare_environment(python, version, root)
    # Compiled sources are kept, and not beside the sources: each of the hundred programs would compile all of them.
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root / "runtime")}
    environment["PYTHONPYCACHEPREFIX"] = str(bare / "compiled")
    command = [str(bare / "bin" / "python"), "-m", "pytest", "-q", "-c", str(root / "tests" / "runtime" / "bare.ini")]
    command += [
        "-m",
        "not stress and not any_python",
        "--few-cases",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(root),
        str(root / "tests" / "runtime"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed, \d+ skipped, \d+ deselected", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= MIN_TESTS
    torch = subprocess.run([str(bare / "bin" / "python"), "-c", "import torch"], capture_output=True, check=False)
    assert torch.returncode != 0, "the bare environment holds torch, so it proves nothing"
