"""Write the shipped language model as a folder of transformers, so that other tools take its weights.

    python benchmarks/shipped_text_model.py out/lm
    aigc-export export out/lm --precision int8 -o out/lm-int8
    python benchmarks/peers.py out/lm-int8 --against genai:int8,genai:fp32 --quality-samples 0

Its 256 tokens are bytes: the tokenizer gives each the id that it has here. Both models are run on some text first, and
must give the same.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from aigc_models.sources.shipped import load_shipped

CHECKED = "def function(argument):\n    return argument + 1  # "


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    (part,) = load_shipped("lm").parts.values()
    lm: Any = part.module
    ours, sizes = lm.model.eval(), lm.model.config
    transformers: Any = import_module("transformers")
    config = transformers.LlamaConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.d_model,
        intermediate_size=sizes.d_ff,
        num_hidden_layers=sizes.n_layers,
        num_attention_heads=sizes.n_heads,
        num_key_value_heads=sizes.n_kv_heads,
        max_position_embeddings=sizes.context_length,
        rms_norm_eps=sizes.norm_eps,
        rope_theta=sizes.rope.theta,
        tie_word_embeddings=sizes.tie_embeddings,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        dtype="float32",
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.model.load_state_dict({n: t for n, t in ours.state_dict().items() if not n.startswith("lm_head")})
    theirs.tie_weights()
    given.folder.mkdir(parents=True)
    theirs.save_pretrained(given.folder)
    _write_tokenizer(given.folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(given.folder)
    ids = tokenizer(CHECKED, return_tensors="pt").input_ids
    if ids[0].tolist() != list(CHECKED.encode()):
        raise SystemExit("the tokenizer gives other ids than the shipped model's")
    with torch.no_grad():
        difference = float((theirs(ids).logits - ours(ids).logits).abs().max())
    if difference > 1e-3:
        raise SystemExit(f"the logits differ by {difference:g}")
    print(f"{given.folder}: logits differ by at most {difference:.1e}")


def _write_tokenizer(folder: Path) -> None:
    """One token for each byte, by the characters that GPT-2's tokenizer writes for bytes."""
    tokenizers: Any = import_module("tokenizers")
    letters: Any = import_module("transformers.convert_slow_tokenizer").bytes_to_unicode()
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={letters[i]: i for i in range(256)}, merges=[]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False})
    )


if __name__ == "__main__":
    main()
