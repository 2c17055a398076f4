from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aigc_export.cli import run
from aigc_export.line.exporter import export_model
from aigc_export.line.origin import load_original
from aigc_export.peers.catalog import Contestant
from aigc_export.peers.contest import THIS_BUNDLE, ContestPlan, hold
from aigc_export.peers.engines import this_bundle
from aigc_export.peers.plot import contest_plot
from aigc_models.evaluation.quality import session_logits
from aigc_models.torch_session import open_torch
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.errors import ConfigError
from aigc_runtime.opening import open_pipeline
from aigc_runtime.pipelines.text import TextPipeline

from ...runtime import toys
from ..cli.test_schemas import check
from ..conftest import recipe_of, write_checkpoint
from .test_race import TOY

IDS = [72, 101, 108, 108, 111]
ROWS = [IDS, [1, 2, 3, 4, 5], IDS]
PLAN = ContestPlan(prompt_tokens=24, new_tokens=4, rounds=1, windows=2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contest")
    export_model(recipe_of("lm", write_checkpoint(folder / "weights", "lm")), folder / "lm")
    return folder / "lm"


def test_a_bundle_in_a_contest_gives_the_tokens_of_the_runtime_and_the_logits_of_pytorch(bundle: Path) -> None:
    with open_pipeline(bundle, threads=1) as pipeline:
        assert isinstance(pipeline, TextPipeline)
        expected = pipeline.generate([np.array(ids) for ids in ROWS], max_new_tokens=6, temperature=0.0)
    engine = this_bundle.Engine(str(bundle), "", 1)
    for _ in range(2):  # a prompt begins anew
        found = np.array([engine.prompt(ROWS, 6), *(engine.step() for _ in range(5))])
        assert found.T.tolist() == [one.token_ids.tolist() for one in expected]
    logits = session_logits(open_torch(load_original(Bundle.open(bundle))).session("model"))
    (wanted,) = np.concatenate(list(logits(np.array([IDS]))), axis=1)
    assert np.abs(engine.positions(IDS) - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_a_bundle_is_timed_and_judged_beside_others(bundle: Path, tmp_path: Path) -> None:
    toy = Contestant(peer=TOY, form="plain")
    contest = hold(
        Bundle.open(bundle), (toy,), PLAN, threads=1, folder=tmp_path, beside=[str(bundle)], sources={"toy": "weights"}
    )
    ours, again, other = contest.results
    assert (again.name, again.tokens, again.judgment) == ("lm", ours.tokens, ours.judgment)
    assert (ours.name, other.name) == (THIS_BUNDLE, "toy:plain")
    assert (ours.failed, other.failed) == ("", "")
    assert contest.prompt_tokens == 24
    assert ours.judgment is not None
    assert other.judgment is not None
    assert ours.laps is not None
    assert abs(ours.judgment.increase[0]) < 1e-4  # an fp32 bundle computes what PyTorch does
    assert ours.judgment.divergence[0] < 1e-8
    assert ours.judgment.agreement[0] == 1.0
    assert other.judgment.divergence[0] > 1e-4
    assert len(ours.tokens) == len(other.tokens) == 4
    drawn = contest_plot(contest, kind="svg")
    assert drawn.startswith(b"<?xml")
    assert b"toy:plain" in drawn
    assert contest_plot(contest, kind="svg") == drawn


def test_a_bundle_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--against times language models"):
        hold(Bundle.open(toys.write_toy_bundle(tmp_path, "toy_gan")), (), PLAN, threads=1, folder=tmp_path)


def test_the_command_line(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--prompt-tokens", "8", "--new-tokens", "2", "--rounds", "1", "--threads", "1", "--quality-samples", "0"]
    words = ["bench", str(bundle), "--against", "llama", *quick]
    assert run([*words, "--keep-peers", str(tmp_path / "kept"), "--plot", str(tmp_path / "c.svg")]) == 0
    told = capsys.readouterr()
    assert "a prompt of 8 tokens and 2 behind, 1 threads" in told.out
    assert "1.00x" in told.out
    assert "name one with --peer-source llama=PATH" in " ".join(told.out.split())
    assert "timing this bundle" in told.err
    assert (tmp_path / "c.svg").read_bytes().startswith(b"<?xml")
    for bad, why in (("x", "no runtime"), ("torch:int1", "no form 'int1'")):
        assert run(["bench", str(bundle), "--against", bad, *quick]) != 0
        assert why in capsys.readouterr().err
    assert run([*words, "--json", "--prompts", "3"]) == 0
    document = json.loads(capsys.readouterr().out)
    check(document)
    ours, *others = document["results"]
    assert document["prompts"] == 3
    assert ours["token_ms"] > 0
    assert len(ours["tokens"]) == 2
    assert [one["name"] for one in others] == ["llama:gguf"]
    assert others[0]["failed"].startswith("its model is built from a .gguf file")
