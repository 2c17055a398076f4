"""The language model of PyTorch's tutorial on `nn.TransformerEncoder`, and what people make of it: the reference."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY, WIDTH, HEADS, HIDDEN, LAYERS, POSITIONS = 61, 24, 3, 40, 2, 48
CONFIG: dict[str, Any] = {"nhead": HEADS, "activation": "relu", "norm_first": False, "scale_embedding": True}


class PositionalEncoding(nn.Module):
    """As the tutorial has it: a buffer, whose batch is the second axis, or the first."""

    pe: Tensor

    def __init__(self, *, batch_first: bool, persistent: bool = True) -> None:
        super().__init__()
        position = torch.arange(POSITIONS).unsqueeze(1)
        rate = torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(10000.0) / WIDTH))
        pe = torch.zeros(POSITIONS, WIDTH)
        pe[:, 0::2], pe[:, 1::2] = torch.sin(position * rate), torch.cos(position * rate)
        self.register_buffer("pe", pe.unsqueeze(0 if batch_first else 1), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        return x + self.pe.reshape(POSITIONS, WIDTH)[: x.shape[1]]


class Textbook(nn.Module):
    """The model; the names of its parts, and what it does with them, as given.

    Args:
        names: of the embedding, the positions, the encoder and the output layer.
        scale: multiply the embedding by the root of the width.
        final_norm: a norm after the last layer.
        tied: the output layer is the embedding.
        head_bias: of the output layer.
        persistent: the table of positions is in the state dict.
        layer: further arguments of `nn.TransformerEncoderLayer`.
    """

    def __init__(
        self,
        names: tuple[str, str, str, str] = ("src_emb", "pos_encoder", "transformer_encoder", "output_layer"),
        *,
        scale: bool = True,
        final_norm: bool = False,
        tied: bool = False,
        head_bias: bool = True,
        persistent: bool = True,
        seed: int = 0,
        **layer: Any,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.names, self.scale = names, math.sqrt(WIDTH) if scale else 1.0
        block = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, dropout=0.3, batch_first=True, **layer)
        norm = nn.LayerNorm(WIDTH) if final_norm else None
        parts = (
            nn.Embedding(VOCABULARY, WIDTH),
            PositionalEncoding(batch_first=tied, persistent=persistent),
            nn.TransformerEncoder(block, LAYERS, norm=norm, enable_nested_tensor=False),
            nn.Linear(WIDTH, VOCABULARY, bias=head_bias),
        )
        for name, part in zip(names, parts, strict=True):
            self.add_module(name, part)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)
        if tied:
            parts[3].weight = parts[0].weight
        self.src_mask = None
        self.eval()

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        """[B, S] -> logits [B, S, V]."""
        embedding, positions, encoder, head = (getattr(self, name) for name in self.names)
        x = positions(embedding(ids) * self.scale)
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        logits: Tensor = head(encoder(x, mask=mask, is_causal=True))
        return logits

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """Continue a prompt, each token from the whole text before it."""
        ids = list(prompt)
        for _ in range(count):
            ids.append(int(self(torch.tensor([ids]))[0, -1].argmax()))
        return ids[len(prompt) :]
