"""PyTorch's loop with a cache: its tokens and logits are those of the model that reads everything anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aigc_export.peers.engines import torch_eager

from ....models.sources.transformers.small_models import small_model

IDS = [5, 9, 2, 7, 11]


@pytest.mark.parametrize("form", ["fp32", "bf16"])
def test_tokens_and_logits(form: str, tmp_path: Path) -> None:
    model = small_model("llama").eval()
    model.save_pretrained(tmp_path / "source")
    (tmp_path / "into").mkdir()
    torch_eager.build(str(tmp_path / "source"), form, str(tmp_path / "into"))
    before = torch.get_num_threads()
    engine = torch_eager.Engine(str(tmp_path / "into"), form, 1)
    torch.set_num_threads(before)
    ids = torch.tensor([IDS])
    with torch.inference_mode():
        logits = model(ids).logits[0].numpy()
        for _ in range(4):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    scale = np.abs(logits).max()
    assert np.abs(engine.positions(IDS) - logits).max() < scale * (1e-5 if form == "fp32" else 0.1)
    if form == "fp32":
        for _ in range(2):  # a prompt begins anew
            found = np.array([engine.prompt([IDS, IDS], 4), *(engine.step() for _ in range(3))])
            assert found.T.tolist() == [ids[0, len(IDS) :].tolist()] * 2
