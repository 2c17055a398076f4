"""CLIP's text encoder: a causal Transformer over the tokens of a caption.

Shapes: B batch, T tokens, D width, N heads, E = D / N head width.

Module and tensor names are those of the transformers library's `CLIPTextModel`, so that its weights load as they are.

References:
    Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision" (CLIP): section 2.4.
    Vaswani et al. 2017: attention eq. 1. Radford et al. 2019 (GPT-2): section 2.3 (norms in front, scaled initial
    weights). Hendrycks & Gimpel 2016: GELU, and x sigmoid(1.702 x) as its approximation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_models.families.clip_text_config import ClipTextConfig
from aigc_runtime.errors import FeedError

__all__ = ["ClipText", "ClipTextConfig"]

EMBEDDING_STD, POSITION_STD = 0.02, 0.01
"""Deviations of the first embeddings (CLIP's own)."""


def _quick_gelu(x: Tensor) -> Tensor:
    """Compute x sigmoid(1.702 x) (Hendrycks & Gimpel 2016, section 2)."""
    return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": _quick_gelu, "gelu": F.gelu}


class Embeddings(nn.Module):
    """Embeddings of tokens and of their places, added: [B, T] -> [B, T, D]."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        """[B, T] -> [B, T, D]."""
        out: Tensor = self.token_embedding(input_ids) + self.position_embedding.weight[: input_ids.shape[1]]
        return out


class Attention(nn.Module):
    """Multi-head self-attention in which a token sees those before it (Vaswani 2017, eq. 1)."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(size, size) for _ in range(4))

    def forward(self, x_BTD: Tensor, bias_TT: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]; the bias is 0 where a key is seen and -inf where it is not."""
        q, k, v = (
            torch.unflatten(linear(x_BTD), -1, (self.heads, -1)).transpose(1, 2)
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        out_BNTE = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias_TT, dropout_p=self.dropout if self.training else 0.0
        )
        out: Tensor = self.out_proj(out_BNTE.transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    """fc2(act(fc1(x)))."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        out: Tensor = self.fc2(self.activation(self.fc1(x)))
        return out


class Layer(nn.Module):
    """Attention and feed-forward, each with a LayerNorm in front and a residual."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x_BTD: Tensor, bias_TT: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        x_BTD = x_BTD + self.self_attn(self.layer_norm1(x_BTD), bias_TT)
        out: Tensor = x_BTD + self.mlp(self.layer_norm2(x_BTD))
        return out


class Layers(nn.Module):
    """The layers, one after the other."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        index_T = torch.arange(x_BTD.shape[1], device=x_BTD.device)
        hidden_TT = index_T.unsqueeze(0) > index_T.unsqueeze(1)
        bias_TT = torch.zeros(hidden_TT.shape, dtype=x_BTD.dtype, device=x_BTD.device)
        bias_TT = bias_TT.masked_fill(hidden_TT, float("-inf"))
        for layer in self.layers:
            x_BTD = layer(x_BTD, bias_TT)
        return x_BTD


class ClipText(nn.Module):
    """The text encoder.

    Args:
        config: its configuration.
    """

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Layers(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self._draw()

    @torch.no_grad()
    def _draw(self) -> None:
        """Draw initial weights: what adds to the residuals is the smaller the more layers do (GPT-2, section 2.3)."""
        size, layers = self.config.hidden_size, self.config.num_hidden_layers
        residual = (2 * layers * size) ** -0.5
        nn.init.normal_(self.embeddings.token_embedding.weight, std=EMBEDDING_STD)
        nn.init.normal_(self.embeddings.position_embedding.weight, std=POSITION_STD)
        for name, weight in self.encoder.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
                nn.init.normal_(weight, std=size**-0.5)
            elif name.endswith(("out_proj.weight", "fc2.weight")):
                nn.init.normal_(weight, std=residual)
            elif name.endswith("fc1.weight"):
                nn.init.normal_(weight, std=(2 * size) ** -0.5)
            elif name.endswith(("proj.bias", "fc1.bias", "fc2.bias")):
                nn.init.zeros_(weight)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encode tokens.

        Args:
            input_ids: [B, T] int64, T at most `config.max_position_embeddings`.

        Returns:
            [B, T, D]: what the last layer gives, normed.

        Raises:
            FeedError: more tokens than there are places.
        """
        most = self.config.max_position_embeddings
        if input_ids.shape[1] > most:
            raise FeedError(f"input_ids has {input_ids.shape[1]} tokens", hint=f"at most {most}: cut the text")
        out: Tensor = self.final_layer_norm(self.encoder(self.embeddings(input_ids)))
        return out
