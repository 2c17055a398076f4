"""PyTorch in eager mode, by transformers."""

from __future__ import annotations

from typing import Any

import torch
import transformers

__all__ = ["Engine", "build", "version"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def version() -> str:
    """PyTorch's."""
    return str(torch.__version__)


def build(source: str, form: str, into: str) -> None:
    """Save the model in the number format of a form."""
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=DTYPES[form], trust_remote_code=False)
    model.save_pretrained(into)


class Engine:
    """See `aigc_export.peers.engines`.

    Args:
        folder: that `build` made.
        form: of `DTYPES`.
        threads: of PyTorch.
    """

    def __init__(self, folder: str, form: str, threads: int) -> None:
        torch.set_num_threads(threads)
        load: Any = transformers.AutoModelForCausalLM.from_pretrained
        self.model = load(folder, dtype=DTYPES[form], trust_remote_code=False).eval()
        self._cache: Any = None
        self._tokens = list[int]()

    @torch.inference_mode()
    def _read(self, rows: list[list[int]]) -> list[int]:
        found = self.model(torch.tensor(rows), past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = found.past_key_values
        self._tokens = found.logits[:, -1].argmax(dim=-1).tolist()
        return self._tokens

    def prompt(self, rows: list[list[int]], room: int) -> list[int]:
        """Read prompts; the likeliest next token of each."""
        self._cache = None
        return self._read(rows)

    def step(self) -> list[int]:
        """The next tokens."""
        return self._read([[token] for token in self._tokens])

    @torch.inference_mode()
    def positions(self, ids: list[int]) -> Any:
        """Logits of every place: [S, V] float32."""
        return self.model(torch.tensor([ids])).logits[0].float().numpy()
