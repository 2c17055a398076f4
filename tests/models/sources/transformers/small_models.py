"""Small random models of every family, made by transformers: the independent reference."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aigc_models.families.lm import TransformerLM
from aigc_models.programs import CacheKind, lm_program
from aigc_models.sources.transformers.weights import load_model
from aigc_models.text_assets import NO_TEXT
from aigc_models.torch_session import open_torch
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.text import TextPipeline

transformers = pytest.importorskip("transformers")

VOCABULARY = 97
CONTEXT, ORIGINAL, WINDOW = 96, 32, 7
"""Positions; those before the context was made longer; and a window, far below both."""
NEW_TOKENS = 64
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SMALL: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {"head_dim": 16},
    "smollm3": {"no_rope_layer_interval": 2},
    "gpt2": {"n_embd": 48, "n_layer": 2, "n_head": 6, "n_positions": CONTEXT},
    "gpt_neox": {"num_key_value_heads": None},
    "phi3": {"sliding_window": WINDOW},
    "gemma2": {"head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 24},
    "gemma3_text": {
        "head_dim": 16,
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 24,
        "sliding_window_pattern": 2,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
        },
    },
    "olmo2": {"num_key_value_heads": 6},
    "granite": {
        "attention_multiplier": 0.2,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.3,
        "logits_scaling": 4.0,
    },
}
"""Family -> what its small configuration has beside the shared sizes: every kind of layer within two."""
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}
LINEAR = {"rope_type": "linear", "factor": 3.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL, "beta_fast": 8.0}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.5, 2.0, 3.0],
    "long_factor": [1.5, 4.0, 9.0, 20.0],
    "original_max_position_embeddings": ORIGINAL,
}


def scaled(family: str, scaling: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a family's rotary positions scaled, in the form that transformers writes today."""
    if family == "gemma3_text":
        local = SMALL[family]["rope_parameters"]["sliding_attention"]
        return {"rope_parameters": {"full_attention": {**scaling, "rope_theta": 50000.0}, "sliding_attention": local}}
    change: dict[str, Any] = {"rope_parameters": {**scaling, "rope_theta": 5000.0}}
    if family == "gpt_neox":
        change["rope_parameters"]["partial_rotary_factor"] = 0.5
    if family == "phi3":
        change["original_max_position_embeddings"] = ORIGINAL
    return change


SCALED: dict[str, dict[str, Any]] = {
    **{
        f"{family} with {name}": {"family": family, **scaled(family, scaling)}
        for name, scaling in (("linear", LINEAR), ("llama3", LLAMA3), ("yarn", YARN))
        for family in SMALL
        if family not in ("gpt2", "phi3")
    },
    "phi3 with longrope": {"family": "phi3", "sliding_window": None, **scaled("phi3", LONGROPE)},
}
"""Every family that has rotary positions with every scaling that it may have: name -> family, and what changes."""


class InMemory(dict[str, Tensor]):
    """Weights in memory, as a reader of weights."""

    def described(self) -> dict[str, Tensor]:
        return {name: tensor.to("meta") for name, tensor in self.items()}

    def stream(self, into: Callable[[str], Tensor | None] = lambda _: None) -> Iterator[tuple[str, Tensor]]:
        yield from self.items()


def small_config(family: str, **change: Any) -> Any:
    shared = {k: SIZES[k] for k in ("vocab_size", "bos_token_id", "eos_token_id")} if family == "gpt2" else SIZES
    given = json.loads(json.dumps({**shared, **SMALL[family], **change}))  # a config changes what it is given
    return transformers.AutoConfig.for_model(family, **{k: v for k, v in given.items() if v is not None})


def small_model(family: str, *, seed: int = 0, **change: Any) -> Any:
    """A random model whose branches outweigh the embedding, so that its text depends on all that it has read."""
    torch.manual_seed(seed)
    config = small_config(family, **change)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.copy_((0.02 if len(parameter) == config.vocab_size else 0.3) * torch.randn_like(parameter))
    return model


def config_json(model: Any) -> dict[str, Any]:
    """The config.json that transformers would write."""
    found: dict[str, Any] = json.loads(model.config.to_json_string())
    return {**found, "architectures": [type(model).__name__]}


def weights_of(model: Any) -> InMemory:
    return InMemory(model.state_dict())


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A model of transformers, and the same in this repository.

    Attributes:
        theirs: the reference.
        config: its config.json.
        ours: what is tested.
    """

    theirs: Any
    config: dict[str, Any]
    ours: TransformerLM

    def changed(self, **change: Any) -> TransformerLM:
        """Our model of the same weights with another config.json."""
        return load_model({**self.config, **change}, weights_of(self.theirs), source="memory")[0]


def make_pair(family: str, **change: Any) -> Pair:
    theirs = small_model(family, **change)
    theirs.generation_config = transformers.GenerationConfig()  # no eos: a text is as long as it may be
    config = config_json(theirs)
    return Pair(theirs=theirs, config=config, ours=load_model(config, weights_of(theirs), source="memory")[0])


@cache
def pair_of(name: str) -> Pair:
    """The pair of a family, or of one of `SCALED`; made once."""
    change = dict(SCALED.get(name, {"family": name}))
    return make_pair(change.pop("family"), **change)


def token_ids(rows: int = 2, length: int = 40, seed: int = 0) -> Tensor:
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits_error(ours: TransformerLM, theirs: Any, ids: Tensor) -> float:
    """The largest error of our logits, relative to the reference's scale."""
    expected = theirs(ids).logits
    return float((ours(ids).logits - expected).abs().max() / expected.abs().max())


# Text


PROMPTS: tuple[Array, ...] = tuple(token_ids(1, length, seed)[0].numpy() for seed, length in enumerate((20, 5, 13)))
"""The first, the longest, is also generated alone; the others are padded on their left."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """What transformers generates.

    Attributes:
        tokens: [rows, new].
        margin: by how much the first token's logit was above the second's, at least; relative to the logits' scale.
    """

    tokens: list[list[int]]
    margin: float


def their_text(theirs: Any, prompts: Sequence[Array] = PROMPTS, new: int = NEW_TOKENS) -> Text:
    """The greedy continuation of prompts, padded on their left."""
    longest = max(map(len, prompts))
    padded = torch.tensor(np.stack([np.pad(ids, (longest - len(ids), 0)) for ids in prompts]))
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts])
    settings = transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=new,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    out = theirs.generate(padded, attention_mask=mask, generation_config=settings)
    logits = torch.stack(out.logits, dim=1)
    best = logits.topk(2).values
    margin = float((best[..., 0] - best[..., 1]).min() / logits.abs().max())
    return Text(tokens=out.sequences[:, longest:].tolist(), margin=margin)


@cache
def text_of(name: str) -> Text:
    """What transformers' model of a pair makes of all prompts; made once.

    transformers gives all rows of a batch the long factors of LongRoPE when one of them is long: each is made alone.
    """
    theirs = pair_of(name).theirs
    if "longrope" not in name:
        return their_text(theirs)
    alone = [their_text(theirs, [prompt]) for prompt in PROMPTS]
    return Text(tokens=[text.tokens[0] for text in alone], margin=min(text.margin for text in alone))


def our_text(
    model: TransformerLM, cache: CacheKind, prompts: Sequence[Array] = PROMPTS, new: int = NEW_TOKENS
) -> list[list[int]]:
    """The same by the runtime's pipeline, over PyTorch."""
    program = lm_program(model, text=NO_TEXT, cache=cache)
    results = TextPipeline(open_torch(program), program.settings).generate(list(prompts), max_new_tokens=new)
    return [result.token_ids.tolist() for result in results]
