"""CLIP's text encoder against the transformers library's: same tensor names, same hidden states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from aigc_models.families.clip_text import ClipText, ClipTextConfig
from aigc_runtime.errors import ConfigError, FeedError

transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5  # float32, relative to the largest output
DOUBLE_TOLERANCE = 1e-10  # float64, relative to the largest gradient of a tensor

SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 13,
    "layer_norm_eps": 1e-4,
}
CONFIGS = {"quick_gelu": {**SMALL, "hidden_act": "quick_gelu"}, "gelu": {**SMALL, "hidden_act": "gelu"}}
IDS = torch.tensor([[58, 3, 4, 4, 59, 59, 59], [58, 9, 1, 0, 12, 31, 59]])


def their_model(name: str) -> Any:
    torch.manual_seed(0)
    # Tokens that begin, end and fill a text are not looked at for hidden states.
    model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**CONFIGS[name], eos_token_id=59))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def our_model(name: str) -> ClipText:
    model = ClipText(ClipTextConfig(**CONFIGS[name])).eval()
    model.load_state_dict(their_model(name).state_dict(), strict=True)
    return model


def far(actual: Tensor, expected: Tensor) -> bool:
    assert actual.shape == expected.shape
    return bool((actual - expected).abs().max() > TOLERANCE * expected.abs().max())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("tokens", [1, 7, 13])
def test_their_weights_load_as_they_are_and_give_their_hidden_states(name: str, tokens: int) -> None:
    ids = torch.arange(2 * tokens).view(2, tokens) * 7 % 60
    with torch.no_grad():
        assert not far(our_model(name)(ids), their_model(name)(ids).last_hidden_state)


@pytest.mark.parametrize("other", [{"hidden_act": "gelu"}, {"num_attention_heads": 2}, {"layer_norm_eps": 1e-2}])
def test_the_comparison_sees_a_change_of_the_configuration(other: dict[str, Any]) -> None:
    theirs = their_model("quick_gelu")
    ours = ClipText(ClipTextConfig(**{**CONFIGS["quick_gelu"], **other})).eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        assert far(ours(IDS), theirs(IDS).last_hidden_state)


def test_the_comparison_sees_a_change_of_any_tensor() -> None:
    ours = our_model("gelu")
    with torch.no_grad():
        expected = ours(IDS)
        for key, parameter in ours.named_parameters():
            if key.endswith("k_proj.bias"):
                continue  # adds the same to all scores of a query: no effect, by softmax's invariance
            kept = parameter.clone()
            parameter.add_(torch.randn_like(parameter))
            assert far(ours(IDS), expected), key
            parameter.copy_(kept)


def test_a_token_sees_none_behind_it() -> None:
    ours = our_model("gelu")
    other = IDS.clone()
    other[:, 5:] = 17
    with torch.no_grad():
        assert torch.equal(ours(IDS)[:, :5], ours(other)[:, :5])
        assert far(ours(IDS)[:, 5:], ours(other)[:, 5:])


def test_the_gradients_are_theirs() -> None:
    theirs, ours = their_model("quick_gelu").double(), our_model("quick_gelu").double()
    theirs(IDS).last_hidden_state.pow(3).mean().backward()
    ours(IDS).pow(3).mean().backward()
    expected = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        wanted = expected[key].grad
        assert parameter.grad is not None
        assert (parameter.grad - wanted).abs().max() <= DOUBLE_TOLERANCE * wanted.abs().max().clamp(min=1e-3), key


def projected(end: int) -> tuple[Any, ClipText]:
    """An encoder with a projection, theirs and ours."""
    torch.manual_seed(0)
    config = {**CONFIGS["gelu"], "projection_dim": 10}
    theirs = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**config, eos_token_id=end)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    ours = ClipText(ClipTextConfig(**config, eos_token_id=None if end == 2 else end)).eval()
    ours.load_state_dict({k.removeprefix("text_model."): t for k, t in theirs.state_dict().items()}, strict=True)
    return theirs, ours


@pytest.mark.parametrize("end", [2, 59, 31])
def test_the_embedding_of_a_text_and_the_states_before_the_last_layer_are_theirs(end: int) -> None:
    theirs, ours = projected(end)
    ids = torch.tensor([[58, 3, 31, 4, 59, 59, 31], [58, 59, 1, 31, 12, 31, 59]])
    with torch.no_grad():
        found = theirs(ids, output_hidden_states=True)
        states, whole = ours.projected(ids)
        assert not far(states, found.hidden_states[-2])
        assert not far(ours.penultimate(ids), found.hidden_states[-2])
        assert not far(whole, found.text_embeds)
        assert far(ours(ids), found.hidden_states[-2])
        assert far(projected(2 if end == 31 else 31)[1].projected(ids)[1], found.text_embeds)


def test_the_gradients_of_the_projection_are_theirs() -> None:
    theirs, ours = (model.double() for model in projected(59))
    theirs(IDS).text_embeds.pow(3).mean().backward()
    ours.projected(IDS)[1].pow(3).mean().backward()
    expected = {k.removeprefix("text_model."): p for k, p in theirs.named_parameters()}
    for key, parameter in ours.named_parameters():
        wanted = expected[key].grad
        assert parameter.grad is not None
        assert wanted is not None
        assert (parameter.grad - wanted).abs().max() <= DOUBLE_TOLERANCE * wanted.abs().max().clamp(min=1e-3), key


def test_an_encoder_without_a_projection_gives_no_embedding() -> None:
    with pytest.raises(ConfigError, match="projection_dim is None"):
        our_model("gelu").projected(IDS)


def test_initial_weights_are_as_wide_as_the_papers_say() -> None:
    """GPT-2, section 2.3: what adds to the residuals is divided by the root of twice the layers."""
    torch.manual_seed(0)
    model = ClipText(ClipTextConfig(vocab_size=500, hidden_size=128, intermediate_size=512, num_hidden_layers=8))
    weights = {name.removeprefix("encoder.layers.0."): weight for name, weight in model.named_parameters()}
    assert weights["self_attn.q_proj.weight"].std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert weights["mlp.fc2.weight"].std().item() == pytest.approx(128**-0.5 / 4, rel=0.05)
    assert model.embeddings.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not weights["mlp.fc1.bias"].any()


def test_dropout_is_for_training_alone() -> None:
    torch.manual_seed(0)
    model = ClipText(ClipTextConfig(**SMALL, attention_dropout=0.5))
    assert not torch.equal(model.train()(IDS), model(IDS))
    assert torch.equal(model.eval()(IDS), model(IDS))


def test_more_tokens_than_places() -> None:
    with pytest.raises(FeedError, match="input_ids has 14 tokens\nat most 13"):
        our_model("gelu")(torch.zeros(1, 14, dtype=torch.int64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'\nvalid: quick_gelu, gelu"),
        ({"projection_dim": 0}, "projection_dim is 0"),
        ({"eos_token_id": 60}, "eos_token_id is 60\nmust be below vocab_size = 60"),
        ({"num_attention_heads": 5}, "num_attention_heads is 5\nmust be a divisor of hidden_size = 24"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps is 0.0"),
        ({"attention_dropout": 1.0}, "attention_dropout is 1.0"),
    ],
)
def test_values_that_make_no_model(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClipTextConfig(**{**SMALL, **change})


def test_a_configuration_is_written_and_read() -> None:
    config = ClipTextConfig(**SMALL)
    assert ClipTextConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="has no field 'hidden_sizes'"):
        ClipTextConfig.from_dict({"hidden_sizes": 4})
