"""Write a folder of transformers with TinyLlama's shape, random weights in bf16 and another model's tokenizer.

    python benchmarks/random_llama.py out/tiny --tokenizer SmolLM2-135M-Instruct
    aigc-export export out/tiny --precision int4 --weight-method rtn ... -o out/tiny-int4
    python benchmarks/peers.py out/tiny-int4 --against genai:int4 --quality-samples 0

For times alone: what such a model writes means nothing.
"""

from __future__ import annotations

import argparse
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a model")
    parser.add_argument("--layers", type=int, default=22)
    given = parser.parse_args()
    transformers: Any = import_module("transformers")
    kept = transformers.AutoConfig.from_pretrained(given.tokenizer)
    config = transformers.LlamaConfig(
        vocab_size=kept.vocab_size,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=given.layers,
        num_attention_heads=32,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        bos_token_id=kept.bos_token_id,
        eos_token_id=kept.eos_token_id,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(given.folder, max_shard_size="1GB")
    for name in FILES:
        if (given.tokenizer / name).exists():
            shutil.copyfile(given.tokenizer / name, given.folder / name)


if __name__ == "__main__":
    main()
