"""What is known of shipped models, checkpoints and functions before anything of them is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aigc_models.families.lm import LMConfig, TransformerLM
from aigc_models.sources import SOURCES, outline
from aigc_models.sources.shipped import MODELS
from aigc_models.weights.checkpoint import save_checkpoint, shipped_checkpoint
from aigc_runtime.errors import CheckpointError

CONFIG: dict[str, Any] = {
    "vocab_size": 256,
    "context_length": 16,
    "d_model": 16,
    "n_layers": 1,
    "n_heads": 2,
    "d_ff": 24,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_model_has_the_parameters_that_its_training_reports(name: str) -> None:
    source, found = outline(name)
    report = json.loads((shipped_checkpoint(name) / "quality.json").read_text())
    assert source == "shipped"
    assert found.parameters == report["training"]["parameters"]
    assert found.kind == MODELS[name].kind
    assert (found.config is not None) == (found.text is not None) == (name == "lm")
    if name == "gan":  # which has statistics of its batches beside its parameters
        assert sum(found.stored.values()) > 4 * (found.parameters or 0)


def test_a_folder_of_ours(tmp_path: Path) -> None:
    module = TransformerLM(LMConfig(**CONFIG))
    save_checkpoint(tmp_path / "m", module, {"family": "lm", "model": CONFIG})
    source, found = outline(str(tmp_path / "m"))
    assert (source, found.kind, found.family) == ("folder", "text", "lm")
    assert found.parameters == sum(p.numel() for p in module.parameters())
    assert found.stored == {"float32": 4 * (found.parameters or 0)}
    assert found.config == LMConfig(**CONFIG)
    record = {"family": "lm", "model": CONFIG | {"d_ff": 32}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"expected \[(32, 16|16, 32)\]"):
        outline(str(tmp_path / "m"))
    (tmp_path / "m" / "config.json").write_text(json.dumps({**record, "tokenizr": {}}))
    with pytest.raises(CheckpointError, match="did you mean 'tokenizer'"):
        outline(str(tmp_path / "m"))


def test_a_function_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("raise SystemExit\n")
    source, found = outline(f"{tmp_path / 'f.py'}:make")
    assert source == "function"
    assert (found.kind, found.parameters, found.config) == ("", None, None)
    assert "before it runs" in found.notes[0]


def test_every_source_has_an_outline() -> None:
    assert all(callable(source.outline) for source in SOURCES.values())
