"""Small random adapters, made, saved and merged by peft: the independent reference."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

peft = pytest.importorskip("peft")


def adapt(model: Any, *, seed: int = 1, **config: Any) -> Any:
    """An adapted copy of a model of transformers, whose adapter does something."""
    torch.manual_seed(seed)
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, **config}))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return adapted.eval()


def save(adapted: Any, folder: Path) -> str:
    """Save an adapter as peft does; gives its path."""
    adapted.save_pretrained(str(folder))
    return str(folder)


def merged(adapted: Any) -> Any:
    """The model with the adapter in its weights."""
    return copy.deepcopy(adapted).merge_and_unload()
