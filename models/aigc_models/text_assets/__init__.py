"""What a language model's folder says about text: its tokenizer, special tokens, chat templates and sampling."""

from __future__ import annotations

from aigc_models.text_assets.assets import BYTES, NO_TEXT, TextAssets
from aigc_models.text_assets.folder import make_text_assets, read_text_assets
from aigc_models.text_assets.prompt_vectors import PromptOrigin, make_prompt_vectors
from aigc_models.text_assets.text_files import TextFiles, read_text_files
from aigc_models.text_assets.vectors import TextDiffersError, make_vectors, needs_vectors

__all__ = [
    "BYTES",
    "NO_TEXT",
    "PromptOrigin",
    "TextAssets",
    "TextDiffersError",
    "TextFiles",
    "make_prompt_vectors",
    "make_text_assets",
    "make_vectors",
    "needs_vectors",
    "read_text_assets",
    "read_text_files",
]
