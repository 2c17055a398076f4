from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aigc_export.peers.catalog import Contestant, Peer
from aigc_export.peers.race import Laps, Race, Runner, race
from aigc_models.evaluation.windows import full_windows
from aigc_runtime.core.tensors import Array

from .toy_engine import VOCABULARY

TOY = Peer(
    name="toy", title="Toy", engine=Path(__file__).parent / "toy_engine.py", install="pip install toy", forms=("plain",)
)


def runner(form: str = "plain", source: str = "weights") -> Runner:
    return Runner(name=f"toy:{form}", contestant=Contestant(peer=TOY, form=form), source=source)


def sharp(ids: Array) -> Iterator[Array]:
    """PyTorch, which is sure of token 7."""
    logits = np.zeros((*ids.shape, VOCABULARY), dtype=np.float32)
    logits[..., 7] = 10
    yield logits


def run(**changes: object) -> Race:
    return Race(rows=(tuple(range(20)),), new_tokens=4, rounds=3, threads=1, **changes)  # type: ignore[arg-type]


def test_runners_take_turns_and_one_that_fails_stops_no_other(tmp_path: Path) -> None:
    told: list[str] = []
    forms = ("plain", "missing", "unbuilt", "dies", "raises")
    found = race([runner(form) for form in forms], run(), tmp_path, tell=told.append)
    plain, missing, unbuilt, dies, raises = found
    assert plain.laps is not None
    assert (len(plain.laps.prompts), [len(one) for one in plain.laps.steps]) == (3, [3, 3, 3])
    assert plain.tokens == (20, 21, 22, 23)
    assert (plain.version, plain.failed, plain.judgment) == ("1.2.3", "", None)
    assert plain.size_bytes == 1000 + len("weights")
    assert 0 < plain.cold_s < 60
    assert "No module named 'toy'" in missing.failed
    assert missing.failed.endswith("pip install toy")
    assert "no such weights" in unbuilt.failed
    assert "out of toys" in dies.failed
    assert "the graph is broken" in raises.failed
    assert [one.laps for one in found[1:]] == [None] * 4
    assert told[0] == "building toy:plain"


def test_what_was_built_is_taken_again_and_what_failed_is_not(tmp_path: Path) -> None:
    race([runner(), runner("unbuilt")], run(), tmp_path)
    (again,) = race([runner(source="other weights")], run(), tmp_path)
    assert again.size_bytes == 1000 + len("weights")
    assert not (tmp_path / "toy-unbuilt").exists()


def test_what_a_failed_build_left_is_not_in_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "toy-plain.making").mkdir()
    (tmp_path / "toy-plain.making" / "half").write_bytes(b"x" * 50)
    (found,) = race([runner()], run(), tmp_path)
    assert found.size_bytes == 1000 + len("weights")


def test_a_source_of_another_form(tmp_path: Path) -> None:
    (found,) = race([runner(source="")], run(), tmp_path)
    assert found.failed == (
        "its model is built from a folder of transformers, which the bundle was not made from: "
        "name one with --peer-source toy=PATH"
    )


def test_logits_are_judged_beside_pytorch(tmp_path: Path) -> None:
    ids = np.full((2, 9), 7, dtype=np.int64)
    windows = full_windows(ids, 0)
    forms = ("plain", "blind", "other")
    plain, blind, other = race([runner(form) for form in forms], run(windows=windows, reference=sharp), tmp_path)
    assert plain.judgment is not None
    assert plain.judgment.perplexity == pytest.approx(VOCABULARY)
    sure = np.exp(10) / (np.exp(10) + VOCABULARY - 1)
    assert plain.judgment.increase[0] == pytest.approx(VOCABULARY * sure - 1, rel=1e-5)
    assert plain.judgment.divergence[0] > 1
    assert plain.judgment.agreement == (0.0, 0.0)
    assert blind.failed.startswith("not judged: ")
    assert blind.laps is not None
    assert "it gives logits of 257 tokens, PyTorch's model of 256" in other.failed


def test_times_are_medians_of_rounds_and_shares_of_all_tokens() -> None:
    laps = Laps(prompts=(1.0, 3.0, 2.0), steps=((0.001, 0.002, 0.003), (0.004,) * 3, (0.005, 0.006, 0.1)))
    assert (laps.prompt_ms, laps.token_ms()) == (2000.0, 4.0)
    assert laps.token_ms(0.99) == pytest.approx(100.0)
    assert laps.token_ms(0.1) == pytest.approx(1.0)
