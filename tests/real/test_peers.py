"""Other runtimes of a contest compute what transformers does, and choose the likeliest token of what they compute.

One that is not installed is skipped by name. `AIGC_PEER_PYTHON`, such as `genai=/opt/genai/bin/python,llama=...`, names
Pythons that have them.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from aigc_export.peers.catalog import PEERS, parse_named
from aigc_export.peers.process import WorkerProcess
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineMissingError

pytestmark = pytest.mark.real
transformers = pytest.importorskip("transformers")

TEXT = "def fill(text, width=70):\n    '''Fill a single paragraph of text, and return a string of all lines.'''\n"
EXACT = {"genai": "fp32", "openvino": "fp32", "torch": "fp32", "llama": "gguf"}
ALLOWED = {"genai": 1e-3, "openvino": 3e-2, "torch": 1e-5, "llama": 0.1}
"""Of the scale of logits: OpenVINO may compute in bfloat16, llama.cpp rounds activations to 8 bits."""


@pytest.fixture(scope="module")
def expected(smollm2: Path) -> tuple[list[int], Array]:
    """Token ids of a text, and transformers' logits of every place."""
    ids = transformers.AutoTokenizer.from_pretrained(smollm2)(TEXT)["input_ids"]
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    with torch.inference_mode():
        return ids, model(torch.tensor([ids])).logits[0].numpy()


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_computes_what_transformers_does(
    name: str, expected: tuple[list[int], Array], smollm2: Path, smollm2_gguf: Path, tmp_path: Path
) -> None:
    peer, (ids, logits) = PEERS[name], expected
    named = os.environ.get("AIGC_PEER_PYTHON", "")
    python = parse_named("AIGC_PEER_PYTHON", named.split(",") if named else ()).get(name)
    source, form = smollm2_gguf if peer.suffix else smollm2, EXACT[name]
    try:
        with WorkerProcess(peer.engine, python=python) as process:
            process.ask("build", source=str(source), form=form, into=str(tmp_path))
    except EngineMissingError as err:
        pytest.skip(f"{name}: {err.message}")
    with WorkerProcess(peer.engine, python=python) as process:
        process.ask("open", folder=str(tmp_path), form=form, threads=2)
        process.ask("positions", ids=ids, file=str(tmp_path / "logits.npy"))
        found = np.load(tmp_path / "logits.npy")
        assert found.shape == logits.shape
        assert np.abs(found - logits).max() < ALLOWED[name] * np.abs(logits).max()
        chosen = process.ask("generate", ids=ids, tokens=8)["tokens"]
        process.ask("positions", ids=[*ids, *chosen], file=str(tmp_path / "logits.npy"))
        greedy = np.load(tmp_path / "logits.npy")[len(ids) - 1 : -1]
    # The chosen token is the likeliest one, or as likely but for rounding.
    gaps = greedy.max(axis=1) - greedy[np.arange(8), chosen]
    assert gaps.max() < ALLOWED[name] * np.abs(logits).max()
