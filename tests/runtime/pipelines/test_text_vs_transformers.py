"""A second opinion on generated text: transformers' own `generate` over our logits, against our pipeline.

Both sides of parity choose tokens by one loop. Here transformers builds its processors itself, in its order, pads and
stops as it does, and runs the whole sequence anew at every step, without a cache; only its draw is replaced by the
inverse of the cumulative distribution at our uniform numbers.

transformers' repetition penalty sees the padding of shorter rows as tokens that occurred. A row's text here does not
depend on what else is in its batch, so with a penalty the reference runs row by row, without padding.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.logits import SamplingParams
from aigc_runtime.generation.rng import TorchGenerator
from aigc_runtime.pipelines.text import TextPipeline, TextResult

from .. import toys

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

NEW = 7
SEED = 2**32 - 2  # row 2 draws from a seed beyond 32 bits
PROMPTS = {"one": ["ab"], "even": ["abc", "xyz"], "ragged": ["a", "hello", "\u00e9t"]}


def lm_function(values: Mapping[str, Array]) -> dict[str, Array]:
    """Logits from -6 to 6 that depend on all tokens so far, in their order, and on no padding."""
    out = toys.lm_function(values)
    held = values["past_value_0"][:, 0, :, 0]
    tokens = np.concatenate([held, out["present_value_0"][:, 0, held.shape[1] :, 0]], axis=1)
    # The padding counts for nothing: only how far a token is from the end of the row counts.
    steps = values["input_ids"].shape[1]
    logits = []
    for end in range(tokens.shape[1] - steps + 1, tokens.shape[1] + 1):
        age = np.arange(end)[::-1]
        mix = (tokens[:, :end] * (1 + np.cos(age))).sum(axis=1)[:, None]
        logits.append(4 * np.sin(np.arange(256) * 0.37 + mix) + 2 * np.cos(np.arange(256) * np.sin(mix)))
    out["logits"] = np.stack(logits, axis=1).astype(np.float32)[:, values["logits_to_keep"]]
    return out


def make_session() -> ArraySession:
    return ArraySession(
        lm_function,
        Interface(inputs=toys.LM_INPUTS, outputs=toys.LM_OUTPUTS, dims=toys.LM_DIMS, state=toys.lm_state("growing")),
    )


def reference_model() -> Any:
    class Ours(transformers.PreTrainedModel, transformers.GenerationMixin):  # type: ignore[misc]
        config_class = transformers.PretrainedConfig

        def __init__(self) -> None:
            super().__init__(transformers.PretrainedConfig(vocab_size=256, is_encoder_decoder=False))
            self.nothing = torch.nn.Parameter(torch.zeros(()))
            self.session = make_session()

        def prepare_inputs_for_generation(self, input_ids: Any, attention_mask: Any = None, **_: Any) -> Any:
            return {"input_ids": input_ids, "attention_mask": attention_mask}

        def forward(self, input_ids: Any, attention_mask: Any, **_: Any) -> Any:
            pad = np.zeros(len(input_ids), dtype=np.int64)  # a mask of ones is left out by `generate`
            if attention_mask is not None:
                pad = (attention_mask == 0).sum(dim=1).numpy()
            feeds = toys.lm_feeds(input_ids.numpy(), pad)
            logits = self.session.run(feeds, self.session.new_state(len(input_ids)))["logits"]
            return transformers.modeling_outputs.CausalLMOutput(logits=torch.from_numpy(logits))

    return Ours().eval()


@pytest.fixture(scope="module")
def reference() -> Any:
    return reference_model()


def draws_of(rows: list[int]) -> Callable[..., Any]:
    generators = [TorchGenerator((SEED + row) % 2**64) for row in rows]

    def multinomial(probabilities: Any, num_samples: int) -> Any:
        assert num_samples == 1
        cumulative = probabilities.double().cumsum(dim=1).numpy()
        return torch.tensor(
            [
                [int(np.searchsorted(row, float(g.rand((), dtype="float64")) * row[-1], side="right"))]
                for row, g in zip(cumulative, generators, strict=True)
            ]
        )

    return multinomial


def theirs(
    model: Any, prompts: list[str], rows: list[int], params: SamplingParams, eos: tuple[int, ...], monkeypatch: Any
) -> list[list[int]]:
    ids = [list(prompts[row].encode()) for row in rows]
    longest = max(map(len, ids))
    padded = torch.tensor([[0] * (longest - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
    sampled = {} if params.temperature == 0 else {"temperature": params.temperature, "top_p": params.top_p}
    config = transformers.GenerationConfig(
        do_sample=params.temperature != 0,
        **sampled,
        top_k=params.top_k if params.temperature else None,
        repetition_penalty=params.repetition_penalty,
        max_new_tokens=NEW,
        eos_token_id=list(eos) or None,
        pad_token_id=0,
        use_cache=False,
    )
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch, "multinomial", draws_of(rows))
        out = model.generate(padded, attention_mask=mask, generation_config=config)[:, longest:].tolist()
    ends = [next((i for i, token in enumerate(row) if token in eos), NEW) for row in out]
    return [row[: end + 1] for row, end in zip(out, ends, strict=True)]


def ours(prompts: list[str], params: SamplingParams, eos: tuple[int, ...], **more: Any) -> list[TextResult]:
    pipeline = TextPipeline(make_session(), replace(toys.TEXT, eos_token_ids=eos))
    return pipeline.generate(prompts, max_new_tokens=NEW, sampling=params, seed=SEED, **more)


GRID = [
    SamplingParams(temperature=t, top_k=k, top_p=p, repetition_penalty=r)
    for t, k, p, r in itertools.product((0.0, 0.3, 1.0, 1.7), (0, 1, 5), (1.0, 0.9, 0.3), (1.0, 1.3, 0.7))
    if t or (k, p) == (0, 1.0)
]


@pytest.mark.parametrize("batch", PROMPTS)
@pytest.mark.parametrize("stops", [False, True], ids=["no-eos", "eos"])
def test_tokens_are_those_of_transformers(batch: str, stops: bool, reference: Any, monkeypatch: Any) -> None:
    prompts = PROMPTS[batch]
    ended = 0
    # Every sixth of the grid, others for each batch.
    for params in GRID[list(PROMPTS).index(batch) :: 6]:
        eos: tuple[int, ...] = ()
        if stops:  # tokens that the first row and the last one give in their midst, and one that none gives
            free = ours(prompts, params, ())
            eos = tuple({int(free[0].token_ids[NEW // 2]), int(free[-1].token_ids[NEW // 2]), 255})
        found = [row.token_ids.tolist() for row in ours(prompts, params, eos)]
        rows = list(range(len(prompts)))
        if params.repetition_penalty == 1.0:
            assert found == theirs(reference, prompts, rows, params, eos, monkeypatch), params
        else:
            assert found == [theirs(reference, prompts, [r], params, eos, monkeypatch)[0] for r in rows], params
        ended += sum(len(row) < NEW for row in found)
    assert (ended > 0) == stops


def test_padding_changes_no_row(reference: Any, monkeypatch: Any) -> None:
    params = SamplingParams(temperature=1.0, repetition_penalty=1.3)
    prompts = PROMPTS["ragged"]
    found = [row.token_ids.tolist() for row in ours(prompts, params, ())]
    alone = [theirs(reference, prompts, [row], params, (), monkeypatch)[0] for row in range(3)]
    assert found == alone


@pytest.mark.parametrize(
    "other",
    [
        SamplingParams(temperature=0.9),
        SamplingParams(temperature=1.0, top_k=3),
        SamplingParams(temperature=1.0, top_p=0.5),
        SamplingParams(temperature=1.0, repetition_penalty=2.0),
        SamplingParams(),
    ],
)
def test_the_comparison_sees_every_setting(other: SamplingParams, reference: Any, monkeypatch: Any) -> None:
    base = SamplingParams(temperature=1.0)
    expected = theirs(reference, PROMPTS["ragged"], [0, 1, 2], base, (), monkeypatch)
    assert [row.token_ids.tolist() for row in ours(PROMPTS["ragged"], other, ())] != expected


def pieces_of(tokens: list[int], length: int) -> Iterator[str]:
    text = bytes(tokens).decode("utf-8", errors="replace")
    for start in range(len(text) - length + 1):
        yield text[start : start + length]


def test_text_ends_before_a_stop_string_and_comes_in_pieces_as_it_comes_whole() -> None:
    params = SamplingParams(temperature=1.5)
    pipeline = TextPipeline(make_session(), toys.TEXT)
    (whole,) = ours(["ab"], params, ())
    text = bytes(whole.token_ids.tolist()).decode("utf-8", errors="replace")
    assert whole.text == text
    assert "\ufffd" in text  # bytes that are no UTF-8
    for length in (1, 2, 3):
        for stop in pieces_of(whole.token_ids.tolist(), length):
            (found,) = ours(["ab"], params, (), stop=[stop, "never there"])
            assert found.text == text[: text.index(stop)]
            assert found.finish_reason == "stop"
            streamed = pipeline.stream("ab", max_new_tokens=NEW, sampling=params, seed=SEED, stop=[stop])
            assert "".join(streamed) == found.text
