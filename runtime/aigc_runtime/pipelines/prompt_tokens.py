"""Prompts as rows of token ids of one length: what is too long is cut, what is too short is filled up.

Shapes: N prompts, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.tokenizers import Tokenizer, TokenizerRequest, make_tokenizer
from aigc_runtime.pipelines.text_to_image_settings import TextToImageSettings

__all__ = ["PromptTokens", "prompt_tokens"]

WORD_END = "</w>"
"""The end of a word in CLIP's vocabulary, which its tokenizer's file does not take out again."""


class PromptTokens:
    """Encodes prompts as CLIP's text encoders take them.

    Args:
        tokenizer: puts the tokens that begin and end a text around it, as its file says.
        length: T, with those tokens.
        pad: id behind the end of shorter prompts.
        multi_vector: id -> how many ids from it on stand for it.
    """

    def __init__(
        self, tokenizer: Tokenizer, length: int, pad: int, multi_vector: Mapping[int, int] = MappingProxyType({})
    ) -> None:
        self._tokenizer, self._length, self._pad = tokenizer, length, pad
        self._multi_vector = multi_vector
        self._ending: int | None = None

    def encode(self, prompts: Sequence[str]) -> Array:
        """Prompts -> int64 [N, T]. The tokens that end a text stand at the end of a prompt that is cut, too.

        Raises:
            InputError: a text that the tokenizer does not take.
        """
        rows = np.full((len(prompts), self._length), self._pad, dtype=np.int64)
        for row, prompt in zip(rows, prompts, strict=True):
            ids = self._ids(prompt)
            if len(ids) > self._length:
                kept = self._kept(ids)
                ids = np.concatenate([ids[:kept], ids[len(ids) - (self._length - kept) :]])
            row[: len(ids)] = ids
        return rows

    def cut_off(self, prompt: str) -> str:
        """The text at the end of a prompt that the model does not see; empty for a prompt that fits.

        Raises:
            InputError: as `encode` does.
        """
        ids = self._ids(prompt)
        if len(ids) <= self._length:
            return ""
        kept = self._kept(ids)
        text = self._tokenizer.decode(ids[kept : len(ids) - (self._length - kept)])
        return text.replace(WORD_END, " ").strip()

    def _ids(self, prompt: str) -> Array:
        """The ids of a prompt, those of several vectors written out."""
        ids = self._tokenizer.encode(prompt)
        if not self._multi_vector:
            return ids
        written = [token for first in ids.tolist() for token in range(first, first + self._multi_vector.get(first, 1))]
        return np.array(written, dtype=np.int64)

    def _kept(self, ids: Array) -> int:
        """How many ids at the start of a long prompt are kept: those that end it take their places behind them."""
        return max(0, self._length - min(self._ending_of(ids), self._length))

    def _ending_of(self, ids: Array) -> int:
        """The number of tokens that end every text: what no text has, less what all texts begin with."""
        if self._ending is None:
            empty = self._tokenizer.encode("")
            common = min(len(empty), len(ids))
            differs = np.flatnonzero(empty[:common] != ids[:common])
            self._ending = len(empty) - (int(differs[0]) if len(differs) else common)
        return self._ending


def prompt_tokens(settings: TextToImageSettings, assets: Mapping[str, bytes] | None) -> dict[str, PromptTokens]:
    """What makes the rows of ids of each text encoder, by its role.

    Args:
        settings: of the pipeline.
        assets: of its program.

    Raises:
        TextSupportMissingError: the package of a tokenizer is not installed; the hint is the install line.
        BundleError: settings or files that a kind of tokenizer does not take, or more tokens than the model knows.
    """
    made = {}
    for role, info in settings.prompt_infos.items():
        request = TokenizerRequest(
            info=info.tokenizer, vocab_size=info.vocab_size, assets=assets, others=(info.pad_token_id,)
        )
        made[role] = PromptTokens(
            make_tokenizer(request), settings.prompt_tokens, info.pad_token_id, dict(info.multi_vector)
        )
    return made
