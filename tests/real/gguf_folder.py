"""A GGUF file as the folder that transformers would have written: a second reader of the format, for tests alone.

It shares no code with the product's: the format's own description (GGUF version 3) in numpy.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8
BLOCK = 32
SPECIAL = 3
"""Of the tokens' types."""
LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


class Reader:
    """Values of a GGUF file, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{code}")
        return value

    def text(self) -> str:
        size = self.scalar("Q")
        self.at += size
        return self.data[self.at - size : self.at].decode()

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            inner, count = self.scalar("I"), self.scalar("Q")
            return [self.value(inner) for _ in range(count)]
        return self.scalar(SCALARS[kind])


def halves(rows: npt.NDArray[np.uint8], start: int) -> Floats:
    """A float16 in each row, [blocks, 1]."""
    return rows[:, start : start + 2].copy().view(np.float16).astype(np.float32)


def numbers(raw: memoryview, kind: int, count: int) -> Floats:
    if kind == F32:
        return np.frombuffer(raw, np.float32, count).copy()
    if kind == F16:
        return np.frombuffer(raw, np.float16, count).astype(np.float32)
    blocks = count // BLOCK
    if kind == Q4_1:  # a scale, a minimum, and 16 bytes whose low halves come first
        rows = np.frombuffer(raw, np.uint8, blocks * 20).reshape(blocks, 20)
        codes = np.concatenate([rows[:, 4:] & 15, rows[:, 4:] >> 4], axis=1).astype(np.float32)
        return np.ravel(codes * halves(rows, 0) + halves(rows, 2))
    if kind == Q8_0:
        rows = np.frombuffer(raw, np.uint8, blocks * 34).reshape(blocks, 34)
        return np.ravel(rows[:, 2:].copy().view(np.int8).astype(np.float32) * halves(rows, 0))
    raise ValueError(f"a tensor of type {kind} is not read here")


def read(data: bytes) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Fields, and tensors in float32."""
    reader = Reader(data)
    if reader.scalar("I") != 0x46554747 or reader.scalar("I") != 3:
        raise ValueError("not a GGUF file of version 3")
    n_tensors, n_fields = reader.scalar("Q"), reader.scalar("Q")
    fields = {reader.text(): reader.value(reader.scalar("I")) for _ in range(n_fields)}
    infos = []
    for _ in range(n_tensors):
        name, dims = reader.text(), reader.scalar("I")
        shape = [reader.scalar("Q") for _ in range(dims)]
        infos.append((name, shape[::-1], reader.scalar("I"), reader.scalar("Q")))
    align = fields.get("general.alignment", 32)
    start, view = -(-reader.at // align) * align, memoryview(data)
    tensors = {
        name: numbers(view[start + offset :], kind, int(np.prod(shape))).reshape(shape)
        for name, shape, kind, offset in infos
    }
    return fields, tensors


def apart(weight: Floats, heads: int) -> Floats:
    """Rows of queries and keys, whose rotary halves the format interleaves, with the halves apart."""
    rows, columns = weight.shape
    return np.ascontiguousarray(
        weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
    )


def write_folder(data: bytes, folder: Path) -> None:
    """Write config.json, model.safetensors, tokenizer.json and their like for a model of Llama's form."""
    from safetensors.numpy import save_file

    fields, tensors = read(data)
    own = {name.removeprefix("llama."): value for name, value in fields.items()}
    heads, kv_heads = own["attention.head_count"], own["attention.head_count_kv"]
    state = {}
    for name, array in tensors.items():
        if name in OUTSIDE:
            state[OUTSIDE[name]] = array
            continue
        _, layer, part, _ = name.split(".")
        if part in ("attn_q", "attn_k"):
            array = apart(array, heads if part == "attn_q" else kv_heads)
        state[f"model.layers.{layer}.{LAYER[part]}.weight"] = array
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    ids = {
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": own["embedding_length"],
        "intermediate_size": own["feed_forward_length"],
        "num_hidden_layers": own["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": own["context_length"],
        "rms_norm_eps": own["attention.layer_norm_rms_epsilon"],
        "rope_theta": own["rope.freq_base"],
        "tie_word_embeddings": "output.weight" not in tensors,
        **ids,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", ids)
    write_tokenizer(fields, folder)


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def write_tokenizer(fields: dict[str, Any], folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    words = fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [AddedToken(word, special=True) for word, kind in zip(words, kinds, strict=True) if kind == SPECIAL]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": fields["llama.context_length"],
            "chat_template": fields["tokenizer.chat_template"],
            **{name: words[fields[f"tokenizer.ggml.{key}_token_id"]] for name, key in names.items()},
        },
    )
