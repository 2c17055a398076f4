"""CLIP's text encoder: a causal Transformer over the tokens of a caption.

Shapes: B batch, T tokens, D width, N heads, E = D / N head width, P width of the embedding of a text.

Module and tensor names are those of the transformers library's `CLIPTextModel`, so that its weights load as they are;
with a projection they are those of `CLIPTextModelWithProjection` without the prefix of the former.

References:
    Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision" (CLIP): section 2.4.
    Podell et al. 2023, "SDXL": section 2.1 (states of the layer before the last, and the embedding of the text).
    Vaswani et al. 2017: attention eq. 1. Radford et al. 2019 (GPT-2): section 2.3 (norms in front, scaled initial
    weights). Hendrycks & Gimpel 2016: GELU, and x sigmoid(1.702 x) as its approximation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_models.families.clip_text_config import ClipTextConfig
from aigc_runtime.errors import ConfigError, FeedError

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

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, D] -> what goes into the last layer, and what comes out of it, both [B, T, D]."""
        index_T = torch.arange(x_BTD.shape[1], device=x_BTD.device)
        hidden_TT = index_T.unsqueeze(0) > index_T.unsqueeze(1)
        bias_TT = torch.zeros(hidden_TT.shape, dtype=x_BTD.dtype, device=x_BTD.device)
        bias_TT = bias_TT.masked_fill(hidden_TT, float("-inf"))
        before_BTD = x_BTD
        for layer in self.layers:
            before_BTD, x_BTD = x_BTD, layer(x_BTD, bias_TT)
        return before_BTD, x_BTD

    def without_last(self) -> Layers:
        """The same layers but the last, with their weights."""
        return Layers(list(self.layers)[:-1])


class ClipText(nn.Module):
    """The text encoder.

    Args:
        config: its configuration.
    """

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Layers(Layer(config) for _ in range(config.num_hidden_layers))
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.text_projection: nn.Linear | None = None
        if config.projection_dim is not None:
            self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
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
        if self.text_projection is not None:
            nn.init.normal_(self.text_projection.weight, std=size**-0.5)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encode tokens.

        Args:
            input_ids: [B, T] int64, T at most `config.max_position_embeddings`.

        Returns:
            [B, T, D]: what the last layer gives, normed.

        Raises:
            FeedError: more tokens than there are places.
        """
        out: Tensor = self.final_layer_norm(self._states(input_ids)[1])
        return out

    def penultimate(self, input_ids: Tensor) -> Tensor:
        """Encode tokens without the last layer and the norm behind it: [B, T] -> [B, T, D] (Podell 2023).

        Raises:
            FeedError: as `forward` does.
        """
        return self._states(input_ids)[0]

    def projected(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Encode tokens as `penultimate` does, and the text as a whole: its end, normed and projected.

        Args:
            input_ids: as of `forward`; each row has its end.

        Returns:
            [B, T, D] and [B, P].

        Raises:
            ConfigError: an encoder without a projection.
            FeedError: as `forward` does.
        """
        if self.text_projection is None:
            raise ConfigError(
                "ClipTextConfig.projection_dim is None", hint="set it for an encoder that gives a text's embedding"
            )
        before, last = self._states(input_ids)
        end = self.config.eos_token_id
        # Engines look for the largest of int32; the first is taken of several.
        at_B = (input_ids if end is None else input_ids == end).to(torch.int32).argmax(dim=-1)
        of_end_BD = self.final_layer_norm(last)[torch.arange(at_B.shape[0], device=at_B.device), at_B]
        return before, self.text_projection(of_end_BD)

    def _states(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        most = self.config.max_position_embeddings
        if input_ids.shape[1] > most:
            raise FeedError(f"input_ids has {input_ids.shape[1]} tokens", hint=f"at most {most}: cut the text")
        states: tuple[Tensor, Tensor] = self.encoder(self.embeddings(input_ids))
        return states
