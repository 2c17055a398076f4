"""Modules with carried state, captured and opened: equal to PyTorch over the whole sequence, whatever the kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from aigc_calibration.onnx_file import to_proto
from aigc_export.graphs.capture import capture
from aigc_models.example_sizes import example_sizes, run_sizes
from aigc_models.program import Part, example_feeds
from aigc_models.sources.module import make_part
from aigc_models.torch_session import TorchSession
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.core.tensors import Array, DimSpec, StateSpec
from aigc_runtime.errors import ConfigError, FeedError, UnknownNameError

from ...runtime import mixed


def opened(part: Part, *, bound: bool | None = None) -> OrtSession:
    """The part's graph as a session."""
    return OrtSession(to_proto(capture(part).model).SerializeToString(), part.interface, threads=1, bound=bound)


def recurrent(name: str, *shape: int | str) -> StateSpec:
    return StateSpec(input=name, output=f"new_{name}", dtype="float32", shape=shape, kind="recurrent")


class Cell(nn.Module):
    """One step of an LSTM, its state given and taken."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(5, 7)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> dict[str, Tensor]:
        h, c = self.cell(x, (h, c))
        return {"y": 2 * h, "new_h": h, "new_c": c}


def whole_lstm(cell: nn.LSTMCell) -> nn.LSTM:
    lstm = nn.LSTM(5, 7, batch_first=True)
    lstm.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    return lstm.eval()


@pytest.mark.parametrize("bound", [False, True])
def test_an_lstm_cell_with_carried_state_is_the_lstm_over_the_whole_sequence(bound: bool) -> None:
    torch.manual_seed(0)
    module = Cell().eval()
    example = {"x": torch.rand(3, 5), "h": torch.rand(3, 7), "c": torch.rand(3, 7)}
    part = make_part(
        module,
        example,
        dims={"x": {0: "batch"}},
        state=(recurrent("h", "batch", 7), recurrent("c", "batch", 7)),
    )
    assert [t.name for t in part.interface.outputs] == ["y"]
    assert part.interface.step_dim is None
    session, reference = opened(part, bound=bound), TorchSession(part)
    for rows in (1, 4):
        x = torch.rand(rows, 11, 5)
        with torch.no_grad():
            wanted = 2 * whole_lstm(module.cell)(x)[0].numpy()
        states = session.new_state(rows), reference.new_state(rows), session.new_state(rows)
        for t in range(x.shape[1]):
            feeds = {"x": x[:, t].numpy()}
            np.testing.assert_allclose(session.run(feeds, states[0])["y"], wanted[:, t], atol=1e-6)
            np.testing.assert_allclose(reference.run(feeds, states[1])["y"], wanted[:, t], atol=1e-6)
            # A generation beside it, of other numbers, changes nothing.
            session.run({"x": np.ones((rows, 5), np.float32)}, states[2])
        assert states[0].length == 0


class Gru(nn.Module):
    """Two layers over several steps at once, with the state as PyTorch has it: [layers, batch, hidden]."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.GRUCell(4, 6), nn.GRUCell(6, 6)])

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        first = self.cells[0](x, h[0])
        second = self.cells[1](first, h[1])
        return second, torch.stack([first, second])


@pytest.mark.slow
def test_rows_need_not_be_the_first_axis_of_a_state() -> None:
    torch.manual_seed(1)
    module = Gru().eval()
    state = StateSpec(input="h", output="output_1", dtype="float32", shape=(2, "batch", 6), kind="recurrent")
    part = make_part(
        module, {"x": torch.rand(3, 4), "h": torch.rand(2, 3, 6)}, dims={"x": {0: "batch"}}, state=(state,)
    )
    session = opened(part)
    whole = nn.GRU(4, 6, num_layers=2, batch_first=True)
    whole.load_state_dict(
        {f"{name}_l{i}": value for i, cell in enumerate(module.cells) for name, value in cell.state_dict().items()}
    )
    x, carried = torch.rand(2, 9, 4), session.new_state(2)
    with torch.no_grad():
        wanted = whole(x)[0].numpy()
    for t in range(9):
        found = session.run({"x": x[:, t].numpy()}, carried)["output_0"]
        np.testing.assert_allclose(found, wanted[:, t], atol=1e-6)
    with pytest.raises(FeedError, match="the feeds have batch 1, the state was made for 2"):
        session.run({"x": x[:1, 0].numpy()}, carried)


class Everything(nn.Module):
    """The toy of all kinds of state in PyTorch: see `tests/runtime/mixed.py` for the formula."""

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        length: Tensor,
        taken: Tensor,
        growing: Tensor,
        buffer: Tensor,
        window: Tensor,
        recurrent: Tensor,
    ) -> dict[str, Tensor]:
        steps = x.shape[1]
        grown = torch.cat([growing, x], 1)
        places = (torch.arange(steps) + length).expand(x.shape[0], steps)
        held = torch.where(torch.arange(mixed.BUFFER) < length, buffer, 0.0)
        moved = torch.cat([window, x], 1)[:, -mixed.WINDOW :]
        a, b = recurrent[0], recurrent[1]
        before = growing.sum(1) + 2 * held.sum(1) + 3 * window.sum(1) + 5 * a + 7 * b
        before = before + 11 * length.float() + 13 * taken.float()
        return {
            "y": torch.arange(steps).float() + before[:, None],
            "seen": torch.where(mask, 2 * grown, 0.0),
            "last": torch.cat([moved, torch.ones(x.shape[0], 1)], 1),
            "grown": grown,
            "written": buffer.scatter(1, places, x),
            "moved": moved,
            "replaced": torch.stack([x.sum(1) - a, b + 2 * a]),
        }


EXAMPLE = {
    "x": torch.rand(2, 3),
    "mask": torch.ones(2, 7, dtype=torch.bool),
    "length": torch.tensor([4]),
    "taken": torch.tensor([4]),
    "growing": torch.rand(2, 4),
    "buffer": torch.rand(2, mixed.BUFFER),
    "window": torch.rand(2, mixed.WINDOW),
    "recurrent": torch.rand(2, 2),
}
DIMS: dict[str, dict[int, str | DimSpec]] = {
    "x": {0: "batch", 1: DimSpec(name="sequence", max=8)},
    "mask": {0: "batch", 1: "past+sequence"},
    "growing": {1: DimSpec(name="past", min=0, max=16)},
}


@pytest.fixture(scope="module")
def everything() -> Part:
    return make_part(Everything().eval(), EXAMPLE, dims=DIMS, state=mixed.STATE)


@pytest.fixture(scope="module")
def graph(everything: Part) -> onnx.ModelProto:
    return to_proto(capture(everything).model)


def test_the_interface_says_what_the_module_takes_and_gives(everything: Part, graph: onnx.ModelProto) -> None:
    interface = everything.interface
    assert [(t.name, t.shape) for t in interface.inputs] == [(t.name, t.shape) for t in mixed.INTERFACE.inputs]
    assert [(t.name, t.shape) for t in interface.outputs] == [(t.name, t.shape) for t in mixed.INTERFACE.outputs]
    assert interface.state == mixed.STATE
    found = {i.name: tuple(d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim) for i in graph.graph.input}
    assert found == {t.name: t.shape for t in interface.graph_inputs}
    outputs = {
        o.name: tuple(d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim) for o in graph.graph.output
    }
    assert outputs["grown"] == outputs["seen"] == ("batch", "past+sequence")
    assert (outputs["written"], outputs["replaced"]) == (("batch", mixed.BUFFER), (2, "batch"))


@pytest.mark.parametrize("bound", [False, True])
def test_all_kinds_in_one_captured_module_agree_with_a_plain_loop(
    everything: Part, graph: onnx.ModelProto, bound: bool
) -> None:
    session = OrtSession(graph.SerializeToString(), everything.interface, threads=1, bound=bound)
    for one in (session, TorchSession(everything)):
        rng = np.random.default_rng(5)
        states = [one.new_state(rows) for rows in (1, 3)]
        histories: list[list[np.ndarray]] = [[], []]
        for steps in (3, 1, 1, 4, 1, 2):
            for rows, state, history in zip((1, 3), states, histories, strict=True):
                x = mixed.draw(rng, rows, steps)
                found = one.run(mixed.feeds(x, state.length), state)
                history.append(x)
                for name, value in mixed.expected(history).items():
                    np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert [state.length for state in states] == [12, 12]
        with pytest.raises(FeedError, match="1 steps do not fit: the engine's carried state of at most 12 holds 12"):
            one.run(mixed.feeds(np.ones((1, 1), np.float32), 12), states[0])


def test_sizes_to_run_at_leave_room_in_the_state(everything: Part) -> None:
    for sizes in (example_sizes(everything), *run_sizes(everything)):
        assert sizes["past"] + sizes["sequence"] <= mixed.BUFFER
        feeds = example_feeds(everything, sizes, seed=0)
        assert feeds["length"].tolist() == feeds["taken"].tolist() == [sizes["past"]]
        assert feeds["mask"].shape == (sizes["batch"], sizes["past"] + sizes["sequence"])


class Loose(nn.Module):
    """A module that takes a mask and a length of any shape and type."""

    def forward(self, x: Tensor, mask: Tensor, taken: Tensor, growing: Tensor, window: Tensor) -> dict[str, Tensor]:
        return {
            "y": x + taken.sum(),
            "shown": mask.float(),
            "grown": torch.cat([growing, x], 1),
            "moved": torch.cat([window, x], 1)[:, -mixed.WINDOW :],
        }


@pytest.mark.parametrize(
    ("example", "dims", "message"),
    [
        ({"taken": torch.tensor([4.0])}, {}, r"'taken', which takes the number of steps held, is float32 \[1\]"),
        ({"taken": torch.tensor([4, 4])}, {}, r"'taken', which takes the number of steps held, is int64 \[2\]"),
        ({"mask": torch.ones(2, 6, dtype=torch.bool)}, {}, r"axis 1 of 'mask' is declared as past\+sequence, and is 6"),
        ({}, {"mask": {1: "past+tokens"}}, r"declare every one of past, tokens as a dimension of an input"),
        ({}, {"mask": {1: "past+"}}, r"'past\+' is not a size"),
        ({}, {"mask": {1: "past+past+sequence"}}, r"declared as past\+past\+sequence, and is 7"),
        ({}, {"mask": {5: "past+sequence"}}, "dims names axis 5 of 'mask'"),
    ],
)
def test_declarations_that_do_not_fit(example: dict[str, Tensor], dims: dict[str, Any], message: str) -> None:
    given = {name: value for name, value in EXAMPLE.items() if name in {"x", "mask", "taken", "growing", "window"}}
    state = tuple(spec for spec in mixed.STATE if spec.kind in {"growing", "window"})
    with pytest.raises(ConfigError, match=message):
        make_part(Loose().eval(), {**given, **example}, dims={**DIMS, **dims}, state=state)


def test_a_length_that_forward_does_not_take_is_named() -> None:
    example = {name: value for name, value in EXAMPLE.items() if name != "taken"}

    class Without(nn.Module):
        def forward(self, x: Tensor, window: Tensor) -> dict[str, Tensor]:
            return {"y": x, "moved": torch.cat([window, x], 1)[:, -mixed.WINDOW :]}

    window = next(spec for spec in mixed.STATE if spec.kind == "window")
    with pytest.raises(UnknownNameError, match="unknown length_input of a state 'taken'"):
        make_part(Without().eval(), {"x": example["x"], "window": example["window"]}, state=(window,))


class Encoder(nn.Module):
    """Integer inputs of several widths and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)

    def forward(self, ids: Tensor, kinds: Tensor, mask: Tensor, scale: Tensor) -> Tensor:
        rows = self.embed(ids.long()) + kinds.float()[:, None, None] * scale.float()
        summed: Tensor = torch.where(mask[..., None], rows, 0.0).sum(1)
        return summed


def test_integers_and_masks_of_any_width_and_rank() -> None:
    torch.manual_seed(2)
    example = {
        "ids": torch.tensor([[3, 1, 2], [0, 5, 19]], dtype=torch.int32),
        "kinds": torch.tensor([1, 255], dtype=torch.uint8),
        "mask": torch.tensor([[True, True, False], [True, False, True]]),
        "scale": torch.tensor([0.5], dtype=torch.float16),
    }
    dims = {"ids": {0: "batch", 1: "tokens"}, "kinds": {0: "batch"}, "mask": {0: "batch", 1: "tokens"}}
    part = make_part(Encoder().eval(), example, dims=dims, bounds={"ids": (0, 20)})
    assert [t.dtype for t in part.interface.inputs] == ["int32", "uint8", "bool", "float16"]
    session, reference = opened(part), TorchSession(part)
    rng = np.random.default_rng(0)
    for rows, tokens in ((1, 1), (2, 3), (4, 9)):
        feeds: dict[str, Array] = {
            "ids": rng.integers(0, 20, (rows, tokens)).astype(np.int32),
            "kinds": rng.integers(0, 256, rows).astype(np.uint8),
            "mask": rng.integers(0, 2, (rows, tokens)).astype(bool),
            "scale": np.array([0.25], np.float16),
        }
        for one in (session, reference):
            wanted = module_by_hand(part, feeds)
            np.testing.assert_allclose(one.run(feeds)["output"], wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(FeedError, match="'mask' has dtype"):
        session.run({**feeds, "mask": feeds["mask"].astype(np.int64)})
    with pytest.raises(FeedError, match="'ids' holds values from 20 to 20"):
        session.run({**feeds, "ids": np.full((4, 9), 20, np.int32)})


def module_by_hand(part: Part, feeds: dict[str, Array]) -> Array:
    """The encoder in numpy."""
    table = dict(part.module.named_parameters())["model.embed.weight"].detach().numpy()
    rows = table[feeds["ids"]] + feeds["kinds"].astype(np.float32)[:, None, None] * feeds["scale"].astype(np.float32)
    total: Array = (rows * feeds["mask"][..., None]).sum(1)
    return total
