"""The config.json of published models, as they stand on the hub, and what transformers makes of the same files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.sources.transformers.families import read_config
from aigc_models.weights.stream_into import build_undrawn

transformers = pytest.importorskip("transformers")

FOLDER = Path(__file__).parent / "published"
"""A file for each family: name of a model -> its config.json."""


@cache
def published(family: str) -> Mapping[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((FOLDER / f"{family}.json").read_text())
    return found


def config_of(name: str) -> dict[str, Any]:
    """The config.json of a published model."""
    return next(models[name] for path in sorted(FOLDER.iterdir()) if name in (models := published(path.stem)))


def count_parameters(config: LMConfig) -> int:
    with torch.device("meta"):
        model = build_undrawn(lambda: TransformerLM(config))
    return sum(parameter.numel() for parameter in model.parameters())


def their_model(values: Mapping[str, Any]) -> Any:
    """transformers' own model of a config.json, without numbers."""
    copied = json.loads(json.dumps(values))  # a config changes what it is given
    scaling = copied.get("rope_scaling")
    if scaling and scaling.get("type") == "su":  # an older name, which transformers 5 takes to lack a field
        scaling["type"] = "longrope"
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**copied))


def check_published(name: str, *, parameters: int, **facts: Any) -> None:
    """A published config.json gives the model that transformers makes of it, in its form of then and of today.

    Args:
        name: of the model.
        parameters: how many it has, as its publisher says.
        facts: fields of our configuration -> their values, as its publisher says.
    """
    values = config_of(name)
    read, theirs = read_config(values), their_model(values)
    assert count_parameters(read) == theirs.num_parameters() == parameters
    rewritten = {**json.loads(theirs.config.to_json_string()), "architectures": values["architectures"]}
    assert "rope_theta" not in rewritten
    assert read_config(rewritten) == read
    found = {field: getattr(read, field) for field in facts}
    assert found == facts
