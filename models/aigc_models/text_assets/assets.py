"""How a language model reads and writes text: one value that an export takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aigc_runtime.generation.chat import ChatInfo
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.generation.tokenizers import TokenizerInfo, TokenizerRequest, make_tokenizer

__all__ = ["BYTES", "NO_TEXT", "TextAssets"]


@dataclass(frozen=True, kw_only=True)
class TextAssets:
    """How a language model reads and writes text.

    Attributes:
        tokenizer: which, and of which of the files.
        chat: its chat templates, of which of the files; None for a model that does not chat.
        bos_token_id: the token that begins a text; None where there is none.
        eos_token_ids: the tokens that end a text.
        pad_token_id: the token that fills the left of shorter rows.
        sampling: how tokens are chosen where nothing else is asked for.
        stop: texts before which a text ends where nothing else is asked for.
        files: name in the bundle -> content.
        folder: where transformers can read the same again; None for what was made in memory.
        notes: for the user: what was not used, and what to know.
    """

    tokenizer: TokenizerInfo
    chat: ChatInfo | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int = 0
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    folder: Path | None = None
    notes: tuple[str, ...] = ()

    def check(self, vocab_size: int) -> None:
        """Make the tokenizer, so that it is known to fit a model.

        Raises:
            AigcError: it is damaged, lacks its file, or has more tokens than the model.
        """
        make_tokenizer(
            TokenizerRequest(
                info=self.tokenizer,
                vocab_size=vocab_size,
                assets=self.files,
                bos=self.bos_token_id,
                others=(*self.eos_token_ids, self.pad_token_id),
            )
        )


BYTES = TextAssets(tokenizer=TokenizerInfo(kind="bytes"))
"""A model over bytes."""
NO_TEXT = TextAssets(tokenizer=TokenizerInfo(kind="none"))
"""A model without a tokenizer: token ids go in and come out."""
