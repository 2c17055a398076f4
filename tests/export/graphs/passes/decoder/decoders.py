"""Small decoders as the line captures them, and conversations with them that take every way of calling one."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from aigc_calibration.onnx_file import to_proto
from aigc_calibration.prepare import copy_graph
from aigc_export.graphs.passes import CLEAN_UP
from aigc_export.graphs.passes.decoder.cached_attention import reads_rows_apart
from aigc_models.families.rope_config import RopeConfig
from aigc_models.program import Program
from aigc_models.programs import lm_program
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array

from ....conftest import quiet_capture, tiny_lm

HEAD = 16
LONGROPE = RopeConfig(
    scaling="longrope", factor=4.0, original_context=24, short_factors=(1.0,) * 8, long_factors=(2.0,) * 8
)
FORMS: dict[str, dict[str, Any]] = {
    "llama": {},
    "all heads": {"n_kv_heads": None},
    "one head of keys": {"n_kv_heads": 1},
    "gpt": {"norm": "layernorm", "activation": "gelu", "position": "learned", "n_kv_heads": None},
    "sinusoids": {"position": "sinusoidal"},
    "window": {"window": 5, "window_layers": (0,)},
    "window with angles of its own": {"window": 5, "window_layers": (0,), "window_rope": RopeConfig(theta=100.0)},
    "norms of heads": {"qk_norm": "head"},
    "norms of all heads": {"qk_norm": "width"},
    "biases": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "no scale": {"attention_scale": 1.0},
    "a layer without angles": {"unrotated_layers": (1,)},
    "norms behind": {"norm_position": "post"},
    "norms on both sides": {"norm_position": "sandwich"},
    "norms of outputs": {"norm_position": "output"},
    "parallel": {"parallel": True},
    "scaled branches": {"residual_scale": 0.5},
    "longrope": {"rope": LONGROPE},
    "yarn": {"rope": RopeConfig(scaling="yarn", factor=4.0, original_context=24)},
    "half of a head turns": {"head_dim": 2 * HEAD, "rope": RopeConfig(rotary_size=HEAD)},
    "few numbers of a head turn": {"rope": RopeConfig(rotary_size=HEAD // 2)},
    "soft cap": {"attention_soft_cap": 5.0},
    "narrow heads": {"head_dim": 8},
    "odd heads": {"head_dim": 12, "position": "learned"},
}
"""Name -> changes to a Llama-like model of 2 layers, whose 4 heads of 16 share 2 heads of keys."""


@cache
def _captured(form: str, kind: str) -> tuple[Program, ir.Model]:
    torch.manual_seed(0)
    program = lm_program(tiny_lm(**{"d_model": 4 * HEAD, **FORMS[form]}), cache=kind)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in program.part.module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model = copy_graph(quiet_capture(program).model)
    for _, rewrite in CLEAN_UP:
        model = rewrite(model)
    return program, model


def decoder(form: str = "llama", kind: str = "growing") -> tuple[Interface, ir.Model]:
    """The interface of a model and its graph, a copy of its own."""
    program, model = _captured(form, kind)
    return program.part.interface, copy_graph(model)


def operators(model: ir.Model, op_type: str) -> int:
    """How many nodes of the main graph have that operator."""
    return sum(1 for node in model.graph if node.op_type == op_type)


def results(model: ir.Model, interface: Interface) -> list[Array]:
    """The logits of conversations: one row, one token alone, padded rows, other rows, pieces of a prompt, a cut."""
    graph = to_proto(model).SerializeToString()
    with OrtSession(graph, interface, threads=1, rows_apart=reads_rows_apart(model)) as session:
        return [*_one_row(session), *_padded_rows(session), *_changed_rows(session), *_long_rows(session)]


def _run(session: OrtSession, state: Any, rng: np.random.Generator, steps: int, pad: list[int]) -> Array:
    feeds = {
        "input_ids": rng.integers(0, 256, (len(pad), steps)),
        "pad_length": np.array(pad, dtype=np.int64),
        "logits_to_keep": np.arange(steps),
    }
    return session.run(feeds, state)["logits"]


def _one_row(session: OrtSession) -> list[Array]:
    rng, state, alone = np.random.default_rng(0), session.new_state(1), session.new_state(1)
    found = [_run(session, state, rng, steps, [0]) for steps in (7, 1, 1, 1, 3, 1)]
    return [*found, *(_run(session, alone, rng, 1, [0]) for _ in range(3))]


def _padded_rows(session: OrtSession) -> list[Array]:
    rng, state, pad = np.random.default_rng(1), session.new_state(3), [0, 3, 2]
    return [_run(session, state, rng, steps, pad) for steps in (6, 1, 1, 4, 1)]


def _changed_rows(session: OrtSession) -> list[Array]:
    rng, state = np.random.default_rng(2), session.new_state(2)
    found = [_run(session, state, rng, 1, [0, 1]) for _ in range(3)]
    state.select([1, 1, 0])
    found.append(_run(session, state, rng, 1, [1, 1, 0]))
    state.truncate(2)
    return [*found, _run(session, state, rng, 1, [1, 1, 0])]


def _long_rows(session: OrtSession) -> list[Array]:
    """Longer than the original context of `LONGROPE` in one row, and not in the other."""
    rng, state = np.random.default_rng(3), session.new_state(2)
    return [_run(session, state, rng, steps, [0, 20]) for steps in (30, 1, 1)]
