"""Write a folder of transformers with a published shape, random weights in bf16 and another model's tokenizer.

    python benchmarks/random_text_model.py out/tiny --shape tinyllama --tokenizer SmolLM2-135M-Instruct
    aigc-export export out/tiny --precision int4 --weight-method rtn ... -o out/tiny-int4
    python benchmarks/peers.py out/tiny-int4 --against genai:int4 --quality-samples 0
    python benchmarks/decoder.py out/tiny --precision fp32

For times alone: what such a model writes means nothing.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SHAPES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "tinyllama": (
        "Llama",
        {
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "max_position_embeddings": 2048,
        },
    ),
    "pythia-160m": (
        "GPTNeoX",
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "rotary_pct": 0.25,
            "max_position_embeddings": 2048,
        },
    ),
    "gemma2-2b": (
        "Gemma2",
        {
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "max_position_embeddings": 8192,
        },
    ),
}
"""Name -> the prefix of transformers' classes, and the sizes. The vocabulary is the tokenizer's."""


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="tinyllama")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a model")
    parser.add_argument("--layers", type=int, help="fewer than the shape has")
    given = parser.parse_args()
    transformers: Any = import_module("transformers")
    kept = transformers.AutoConfig.from_pretrained(given.tokenizer)
    prefix, sizes = SHAPES[given.shape]
    config = getattr(transformers, f"{prefix}Config")(
        **{**sizes, **({} if given.layers is None else {"num_hidden_layers": given.layers})},
        vocab_size=kept.vocab_size,
        bos_token_id=kept.bos_token_id,
        eos_token_id=kept.eos_token_id,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{prefix}ForCausalLM")(config).to(torch.bfloat16)
    model.save_pretrained(given.folder, max_shard_size="1GB")
    for name in FILES:
        if (given.tokenizer / name).exists():
            shutil.copyfile(given.tokenizer / name, given.folder / name)


if __name__ == "__main__":
    main()
