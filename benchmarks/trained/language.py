"""Two language models of characters: in GPT-2's form, and the textbook's Transformer, made of PyTorch's own layers.

Both enter the product as a user's own modules: tokens [B, T] in, logits [B, T, V] out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from quant_entry import Entry
from quant_judges import PerplexityJudge
from torch import Tensor, nn

import aigc_export
from aigc_runtime.core.tensors import Array
from trained.data import prose, python_sources, windows
from trained.loop import descend, load_weights, save_weights
from trained.recipe import Recipe, Training

__all__ = ["GPT2", "TEXTBOOK"]

BYTES = 256
HEADS, LAYERS = 4, 4
CALIBRATED, JUDGED = 1024, 400
"""Windows of text, at most."""


class Gpt2Block(nn.Module):
    """LayerNorm before attention and before the two layers with GELU (Radford et al. 2019, section 2.3).

    Args:
        width: features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.mlp_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        batch, length, width = x.shape
        parts = self.c_attn(self.ln_1(x)).view(batch, length, 3, HEADS, width // HEADS)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(seen.transpose(1, 2).reshape(batch, length, width))
        out: Tensor = x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))
        return out


class Gpt2Form(nn.Module):
    """A decoder with learned positions.

    Args:
        width: features.
        length: T, of the longest window.
    """

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(BYTES, width), nn.Embedding(length, width)
        self.h = nn.ModuleList(Gpt2Block(width) for _ in range(LAYERS))
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, BYTES, bias=False)
        for part in self.modules():
            if isinstance(part, (nn.Linear, nn.Embedding)):
                nn.init.normal_(part.weight, 0.0, 0.02)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """[B, T] int64 -> logits [B, T, V]."""
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.h:
            x = block(x)
        return {"logits": self.lm_head(self.ln_f(x))}


class Textbook(nn.Module):
    """PyTorch's own encoder layers, made causal by a mask: norms behind the sums, ReLU, sines for positions.

    (Vaswani et al. 2017, section 3.)

    Args:
        width: features.
        length: T, of the longest window.
    """

    mask: Tensor
    positions: Tensor

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(BYTES, width)
        layer = nn.TransformerEncoderLayer(width, HEADS, 4 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.out = nn.Linear(width, BYTES)
        self.scale = width**0.5
        angles = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
        both = torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(length, width)
        self.register_buffer("positions", both, persistent=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length), persistent=False)
        nn.init.normal_(self.embed.weight, 0.0, width**-0.5)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """[B, T] int64 -> logits [B, T, V]."""
        length = tokens.shape[1]
        x = self.embed(tokens) * self.scale + self.positions[:length]
        return {"logits": self.out(self.encoder(x, mask=self.mask[:length, :length], is_causal=True))}


def train_language(model: nn.Module, training: Training, folder: Path, text: Array) -> None:
    """Predict the next byte of random windows."""
    tokens = torch.from_numpy(text.copy())

    def loss(rng: torch.Generator) -> Tensor:
        starts = torch.randint(len(tokens) - training.size - 1, (training.batch_size,), generator=rng)
        rows = torch.stack([tokens[s : s + training.size + 1] for s in starts.tolist()]).long()
        logits = model(rows[:, :-1])["logits"]
        return F.cross_entropy(logits.reshape(-1, BYTES), rows[:, 1:].reshape(-1))

    save_weights(model, folder, descend(model, training, loss))


def train_gpt2(training: Training, folder: Path, _needs: Mapping[str, Path]) -> None:
    """On sources of Python's standard library."""
    torch.manual_seed(training.seed)
    train_language(Gpt2Form(training.width, training.size), training, folder, python_sources()[0])


def train_textbook(training: Training, folder: Path, _needs: Mapping[str, Path]) -> None:
    """On the prose of Python's language reference."""
    torch.manual_seed(training.seed)
    train_language(Textbook(training.width, training.size), training, folder, prose()[0])


def enter_gpt2(training: Training, folder: Path, _needs: Mapping[str, Path]) -> Entry:
    """As a module of the user's own."""
    return _enter("gpt2-form", Gpt2Form(training.width, training.size), training, folder, python_sources)


def enter_textbook(training: Training, folder: Path, _needs: Mapping[str, Path]) -> Entry:
    """As a module of the user's own."""
    return _enter("textbook", Textbook(training.width, training.size), training, folder, prose)


def _enter(
    name: str, model: nn.Module, training: Training, folder: Path, text: Callable[[], tuple[Array, Array]]
) -> Entry:
    learned, held_out = (
        windows(part, training.size, most) for part, most in zip(text(), (CALIBRATED, JUDGED), strict=True)
    )
    program = aigc_export.program(
        load_weights(model, folder),
        {"tokens": torch.from_numpy(learned[:2])},
        dims={"tokens": {0: "batch"}},
        bounds={"tokens": (0, BYTES)},
        name=name,
    )
    judge = PerplexityJudge(tokens="tokens", rows=held_out, output="logits")
    return Entry(program=program, rows={"tokens": learned}, judge=judge)


GPT2 = Recipe(
    name="gpt2-form",
    about="language model in GPT-2's form, Python sources",
    training=Training(steps=1200, batch_size=16, learning_rate=2e-3, size=128, width=128),
    made_by=(Gpt2Block, Gpt2Form, train_language, train_gpt2, descend, HEADS, LAYERS),
    train=train_gpt2,
    enter=enter_gpt2,
)
TEXTBOOK = Recipe(
    name="textbook",
    about="textbook Transformer, ReLU and post-norm, prose",
    training=Training(steps=1200, batch_size=16, learning_rate=1e-3, size=128, width=128),
    made_by=(Textbook, train_language, train_textbook, descend, HEADS, LAYERS),
    train=train_textbook,
    enter=enter_textbook,
)
