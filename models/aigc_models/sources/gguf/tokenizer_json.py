"""A tokenizer.json of the tokenizer in a GGUF file.

Two kinds are read. `gpt2`: pairs of byte-level pieces, merged in the order of a list (Sennrich et al. 2016; Radford et
al. 2019, section 2.2). `llama`: SentencePiece's pairs, merged by the score of what they give (Kudo & Richardson 2018);
the list of merges is made of the scores as transformers makes it.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from aigc_models.sources.gguf.pre_tokenizers import find_pre_tokenizer
from aigc_models.sources.gguf.vocabulary import BYTE, NORMAL, UNKNOWN, USER_DEFINED, Vocabulary, around
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = ["KINDS", "make_tokenizer_json"]

KINDS = ("gpt2", "llama")
"""`tokenizer.ggml.model` that are read."""
SPACE = "▁"
MAX_PIECE = 256
"""Characters of a piece whose merges are made of scores: several times what trainers of vocabularies make."""


def make_tokenizer_json(kind: object, vocabulary: Vocabulary, *, architecture: str) -> bytes:
    """Make the file.

    Args:
        kind: `tokenizer.ggml.model`.
        vocabulary: of the GGUF file.
        architecture: of its model.

    Raises:
        CheckpointError: a kind or a way to cut texts that is not known, or scores that give no order.
    """
    if kind == "gpt2":
        parts = _byte_level(vocabulary)
    elif kind == "llama":
        parts = _sentencepiece(vocabulary, take_spaces=architecture == "phi3")
    else:
        raise CheckpointError(
            f"tokenizer.ggml.model is {shown(kind)}, a tokenizer that is not read",
            hint=f"read: {', '.join(KINDS)}; take the model's folder as transformers has it",
        )
    return json.dumps({"version": "1.0", "truncation": None, "padding": None, **parts}, ensure_ascii=False).encode()


def _byte_level(vocabulary: Vocabulary) -> dict[str, Any]:
    cut = find_pre_tokenizer(vocabulary.values.get("tokenizer.ggml.pre"))
    return {
        "added_tokens": vocabulary.added(),
        "normalizer": {"type": "NFC"} if cut.nfc else None,
        "pre_tokenizer": cut.steps(),
        "post_processor": around(vocabulary, add_bos=cut.add_bos),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _pairs(vocabulary.ids(), vocabulary.merges(), ignore_merges=cut.ignore_merges),
    }


def _sentencepiece(vocabulary: Vocabulary, *, take_spaces: bool) -> dict[str, Any]:
    prefix = vocabulary.flag("add_space_prefix", True)
    unknown = next((t for t, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind == UNKNOWN), None)
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        steps = [{"type": "Prepend", "prepend": SPACE}, *steps]
        decoders = [*decoders, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    model = _pairs(vocabulary.ids(), _merges_of_scores(vocabulary), unk_token=unknown, fuse_unk=True)
    return {
        "added_tokens": vocabulary.added(take_spaces=take_spaces),
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": around(vocabulary, add_bos=True),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {**model, "byte_fallback": vocabulary.types.count(BYTE) == 256},
    }


def _pairs(ids: dict[str, int], merges: list[list[str]], **others: Any) -> dict[str, Any]:
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return {**model, **others, "vocab": ids, "merges": merges}


def _merges_of_scores(vocabulary: Vocabulary) -> list[list[str]]:
    """Every pair of pieces that gives a piece, the best piece first; of one piece the longer left part first."""
    scores, ids = vocabulary.scores(), vocabulary.ids()
    pieces = {
        token: (score, kind)
        for token, score, kind in zip(vocabulary.tokens, scores, vocabulary.types, strict=True)
        if kind in (NORMAL, USER_DEFINED)
    }
    if (longest := max(map(len, pieces), default=0)) > MAX_PIECE:
        raise CheckpointError(
            f"tokenizer.ggml.tokens holds a piece of {longest:,} characters",
            hint=f"at most {MAX_PIECE:,} are read: the file is damaged, get it again",
        )
    found: list[tuple[float, str, str]] = []
    given: Counter[float] = Counter()
    for piece, (score, kind) in pieces.items():
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        pairs = [(left, right) for left, right in cuts if left in pieces and right in pieces]
        found += [(score, *pair) for pair in sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))]
        given[score] += bool(pairs) and kind == NORMAL
    if given and (shared := max(given.values())) > 1:
        raise CheckpointError(
            f"{shared:,} tokens of tokenizer.ggml.scores have the same score: which is merged first is not known",
            hint="take the model's folder as transformers has it: its tokenizer.json says so",
        )
    found.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    return [[left, right] for _, left, right in found]
