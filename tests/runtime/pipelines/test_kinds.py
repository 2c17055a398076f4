"""The kinds of pipelines: what each has in every field, and those that other packages bring."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime.bundle.bundle import write_bundle
from aigc_runtime.bundle.manifest import ReferenceGeneration
from aigc_runtime.bundle.pipeline_info import PipelineInfo, pipeline_from_json, pipeline_to_json
from aigc_runtime.bundle.tolerances import Tolerances
from aigc_runtime.cli.main import run
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.compare import Tolerance
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError, UnknownNameError
from aigc_runtime.io.npy import write_npy
from aigc_runtime.pipelines import KINDS, AnyPipeline, PipelineKind, get_kind, kind_of, make_pipeline
from aigc_runtime.pipelines import kinds as kinds_module
from aigc_runtime.pipelines.kind import Metric, Option, ResultForm, Verb
from aigc_runtime.pipelines.options import SEED
from aigc_runtime.pipelines.replay import run_request
from aigc_runtime.proof.bench import bench_generation, bench_step

from .. import tensor_toys, toys
from . import picture_toys, upscale_toys


@dataclass(frozen=True, kw_only=True)
class Example:
    """A toy of a kind, a request to it, and what the request gives."""

    session: Any
    settings: Any
    request: dict[str, Any]
    form: dict[str, ResultForm]
    unit: tuple[str, int]
    roles: Mapping[str, str] | None = None

    @property
    def pipeline(self) -> AnyPipeline:
        return make_pipeline(self.session(), self.settings, *([] if self.roles is None else [self.roles]))


EXAMPLES = {
    "text": Example(
        session=toys.lm_session,
        settings=toys.TEXT,
        request={"prompts": ["ab", "c"], "max_new_tokens": 4, "sampling": {"temperature": 2.0}, "seed": 3},
        form={"tokens": ResultForm(what="2 rows of text", dtype="int64", shape=(None,), min_bytes=32, max_bytes=2**20)},
        unit=("token", 31),  # a context of 32 holds a prompt of one
    ),
    "diffusion": Example(
        session=toys.unet_session,
        settings=toys.DIFFUSION,
        request={"class_labels": [0, 2], "steps": 2, "seed": 1},
        form={
            "images": ResultForm(
                what="images of shape [2, 1, 4, 4]", dtype="float32", shape=(2, 1, 4, 4), min_bytes=128, max_bytes=128
            )
        },
        unit=("step", 4),
    ),
    "gan": Example(
        session=toys.gan_session,
        settings=toys.GAN,
        request={"class_labels": [0, 2, 1], "truncation": 1.5, "seed": 1},
        form={
            "images": ResultForm(
                what="images of shape [3, 1, 2, 2]", dtype="float32", shape=(3, 1, 2, 2), min_bytes=48, max_bytes=48
            )
        },
        unit=("image", 1),
    ),
    "tensors": Example(
        session=tensor_toys.program,
        settings=tensor_toys.SETTINGS,
        request=dict(tensor_toys.INPUTS),
        form={
            "gap": ResultForm(what="the tensor 'gap'", dtype="float32", shape=(None, 2)),
            "picture": ResultForm(what="the tensor 'picture'", dtype="float32", shape=(None, 2)),
            "label": ResultForm(what="the tensor 'label'", dtype="int64", shape=(None,)),
        },
        unit=("run", 1),
        roles=tensor_toys.ROLES,
    ),
    "upscale": Example(
        session=upscale_toys.session,
        settings=upscale_toys.settings(),
        request={"image": np.linspace(0, 1, 20 * 14 * 3, dtype=np.float32).reshape(20, 14, 3), "overlap": 3},
        form={"picture": ResultForm(what="the enlarged picture", dtype="float32", shape=(None, None, None))},
        unit=("tile", 1),
    ),
    "text_to_image": Example(
        session=picture_toys.program,
        settings=picture_toys.SETTINGS,
        request={"prompt": ["a", "b"], "negative": "c", "steps": 2, "seed": 1, "size": [16, 8]},
        form={
            "images": ResultForm(
                what="images of shape [2, 3, 16, 8]",
                dtype="float32",
                shape=(2, 3, 16, 8),
                min_bytes=3072,
                max_bytes=3072,
            )
        },
        unit=("step", 3),
        roles=picture_toys.ROLES,
    ),
}


@pytest.fixture(params=list(EXAMPLES))
def example(request: pytest.FixtureRequest) -> Example:
    return EXAMPLES[request.param]


def test_every_kind_has_an_example_here() -> None:
    assert EXAMPLES.keys() == KINDS.keys()
    assert {name: kind.name for name, kind in KINDS.items()} == {name: name for name in KINDS}


def test_settings_tell_their_kind(example: Example) -> None:
    kind = kind_of(example.settings)
    assert get_kind(kind.name) is kind
    assert kind.settings is type(example.settings)
    info = PipelineInfo.of(example.settings)
    assert pipeline_from_json(pipeline_to_json(info)) == info
    assert list(pipeline_to_json(info))[:2] == ["kind", "engines"]


def test_a_request_is_checked_replayed_and_of_the_announced_form(example: Example) -> None:
    kind, pipeline = kind_of(example.settings), example.pipeline
    kind.check(pipeline)
    arrays = {name: value for name, value in example.request.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in example.request.items() if name not in arrays}
    forms = kind.check_request(pipeline, plain, arrays)
    assert forms == example.form
    kind.check_arrays(pipeline, arrays)
    results = run_request(pipeline, example.request)
    assert results.keys() == forms.keys()
    for name, form in forms.items():
        assert form.fits(results[name]), name
        assert form.min_bytes <= results[name].nbytes <= (form.max_bytes or 2**30)


def test_a_result_is_as_good_as_itself_and_another_one_is_worse(example: Example) -> None:
    metric = kind_of(example.settings).metric
    results = run_request(example.pipeline, example.request)
    others = {name: array[::-1] * 2 + 1 for name, array in results.items()}
    assert metric.measure(results, results) > metric.measure(results, others)
    limits = Tolerances(
        tensor=Tolerance(min_sqnr_db=1.0), min_token_agreement=None, min_psnr_db=None, max_quality_drop=None
    ).limits()
    assert metric.limit in limits


def test_steps_and_generations_are_timed(example: Example) -> None:
    kind, roles = kind_of(example.settings), [] if example.roles is None else [example.roles]
    assert kind.units(example.pipeline) == example.unit
    assert bench_step(example.session(), example.settings, *roles, runs=2, warmup=1).runs == 2
    whole = bench_generation(example.session(), example.settings, *roles, runs=1)
    assert (whole.unit, whole.units) == example.unit


def test_an_option_of_two_kinds_is_one_object() -> None:
    options = [option for kind in KINDS.values() for option in kind.verb().options]
    by_name = {option.name: option for option in options}
    assert all(by_name[option.name] is option for option in options)
    flags = [flag for option in by_name.values() for flag in option.flags]
    assert len(set(flags)) == len(flags)
    assert all(option.help for option in options)


@pytest.mark.any_python
@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_option_means_nothing_to_the_kinds_that_do_not_name_it(
    kind: PipelineKind, toy_bundles: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    homes = {"text": "toy_lm_growing", "diffusion": "toy_unet", "gan": "toy_gan"}
    writers = {
        "tensors": tensor_toys.write,
        "upscale": upscale_toys.write,
        "text_to_image": picture_toys.write,
    }
    bundle = toy_bundles / homes[kind.name] if kind.name in homes else writers[kind.name](tmp_path)
    own = {option.name for option in kind.verb().options}
    foreign = {option for other in KINDS.values() for option in other.verb().options if option.name not in own}
    assert foreign
    for option in foreign:
        assert run(["generate", str(bundle), option.flags[-1], "1"]) == 2
        assert f"{option.flags[-1]} means nothing to a {kind.name} bundle\n  it takes --" in capsys.readouterr().err


def test_roles_that_a_kind_does_not_know() -> None:
    with pytest.raises(ConfigError, match=r"a gan pipeline with engines for decode\nit needs: model"):
        make_pipeline(toys.gan_session(), toys.GAN, {"decode": "model"})
    with pytest.raises(
        ConfigError, match=r"a text pipeline with engines for prefill\nit needs: model or prefill, deco"
    ):
        make_pipeline(toys.lm_session(), toys.TEXT, {"prefill": "model"})
    with pytest.raises(UnknownNameError, match="unknown engine 'other'"):
        make_pipeline(toys.gan_session(), toys.GAN, {"model": "other"})


def test_a_form_knows_what_fits() -> None:
    form = ResultForm(what="a", dtype="float32", shape=(None, 2))
    assert str(form) == "float32 [any, 2]"
    assert form.fits(np.zeros((7, 2), np.float32))
    for wrong in (np.zeros((7, 2)), np.zeros((7, 3), np.float32), np.zeros(2, np.float32)):
        assert not form.fits(wrong)


# A kind that another package brings.


@dataclass(frozen=True, kw_only=True)
class EchoSettings:
    """How often the toy repeats its input."""

    times: int


class EchoPipeline:
    def __init__(self, program: OpenProgram, settings: EchoSettings) -> None:
        self.program, self.settings = program, settings

    def generate(self, x: list[float]) -> Array:
        return np.array(x * self.settings.times, np.float32)

    def close(self) -> None:
        self.program.close()

    def __enter__(self) -> EchoPipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


WORD = Option(flags=("--word",), name="word", group="echo", type=float, repeated=True, help="what is said")


class EchoJob:
    output = None
    bounds_memory = False

    def __init__(self, arguments: argparse.Namespace, _pipeline: EchoPipeline) -> None:
        self.words = arguments.word or [0.0]

    def run(self, pipeline: EchoPipeline) -> None:
        print(pipeline.generate(self.words).tolist())

    def report(self) -> None:
        print("done")


def echo(**changes: Any) -> PipelineKind:
    fields: dict[str, Any] = {
        "name": "echo",
        "settings": EchoSettings,
        "open": lambda program, _roles, settings: EchoPipeline(program, settings),
        "check_request": lambda *_: {"x": ResultForm(what="x", dtype="float32", shape=(None,))},
        "replay": lambda pipeline, request: {"x": pipeline.generate(**request)},
        "metric": Metric(name="same", measure=lambda a, b: 100.0 * (len(a["x"]) == len(b["x"])), limit="min_sqnr_db"),
        "step": lambda pipeline: lambda: pipeline.generate([0.0]),
        "units": lambda pipeline: ("copy", pipeline.settings.times),
        "generate_once": lambda pipeline: pipeline.generate([0.0]),
        "verb": lambda: Verb(options=(SEED, WORD), prepare=EchoJob),
    }
    return PipelineKind(**{**fields, **changes})


ECHO = echo()
NO_KIND = "not a kind"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What entry points announce: name -> the name of an object of this module."""
    announced: dict[str, str] = {}
    values = {"ECHO": ECHO, "NO_KIND": NO_KIND}

    class Point(metadata.EntryPoint):
        def load(self) -> Any:
            return values[self.value]

    def points(*, group: str) -> tuple[metadata.EntryPoint, ...]:
        assert group == "aigc_runtime.pipelines"
        return tuple(Point(name=name, value=value, group=group) for name, value in announced.items())

    monkeypatch.setattr(metadata, "entry_points", points)
    monkeypatch.setattr(kinds_module, "_installed", {})
    return announced


def test_a_kind_of_another_package_is_found_by_its_name_and_settings(installed: dict[str, str]) -> None:
    installed["echo"] = "ECHO"
    settings = EchoSettings(times=3)
    assert kind_of(settings) is ECHO
    kinds_module._installed.clear()
    assert get_kind("echo") is ECHO
    info = pipeline_from_json({"kind": "echo", "engines": {"model": "model"}, "times": 3})
    assert info.settings == settings
    session = ArraySession(toys.gan_function, toys.gan_session().interface)
    with make_pipeline(session, settings) as pipeline:
        assert run_request(pipeline, {"x": [1.0, 2.0]})["x"].tolist() == [1, 2] * 3
    assert bench_generation(session, settings, runs=1).unit == "copy"


def test_a_kind_of_another_package_has_every_verb(
    installed: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed["echo"] = "ECHO"
    manifest, files = toys.toy_manifest("toy_gan")
    files["ref.generation.npy"] = write_npy(np.ones(2, np.float32))
    generation = ReferenceGeneration(request={"x": [1.0]}, arrays={}, outputs={"x": "ref.generation.npy"})
    manifest = replace(
        manifest,
        pipeline=PipelineInfo.of(EchoSettings(times=2)),
        reference=replace(manifest.reference, generation=generation),
    )
    write_bundle(tmp_path / "b", manifest, files)
    bundle = str(tmp_path / "b")
    for verb, more, told in (
        ("info", [], "toy_gan: echo, ort-cpu"),
        ("verify", ["--threads", "1"], "pass  generation: same 100"),
        ("bench", ["--runs", "1"], "ms a copy"),
        ("generate", ["--word", "3", "--word", "4", "--threads", "1"], "[3.0, 4.0, 3.0, 4.0]\ndone\n"),
    ):
        assert run([verb, bundle, *more]) == 0, verb
        assert told in capsys.readouterr().out
    for more, message in (
        (["--prompt", "a"], "--prompt means nothing to a echo bundle\n  it takes --seed, --word"),
        (["--word", "a"], "argument --word: invalid float value: 'a'"),
        (["--words", "1"], "unrecognized arguments: --words 1"),
    ):
        assert run(["generate", bundle, *more]) == 2
        assert message in capsys.readouterr().err


def test_a_name_of_the_table_is_the_table_s(installed: dict[str, str]) -> None:
    installed["gan"] = "ECHO"
    assert get_kind("gan") is KINDS["gan"]


def test_kinds_that_are_not_there_or_broken(installed: dict[str, str]) -> None:
    installed.update(echos="NO_KIND", other="ECHO", gone="GONE")
    with pytest.raises(UnknownNameError, match=r"unknown kind of pipeline 'ech'\nvalid: diffusion, echos, gan, gone"):
        get_kind("ech")
    for name, message in (
        ("echos", "the kind of pipeline 'echos' of an installed package is str, not PipelineKind"),
        ("other", "registers the kind of pipeline 'other', which calls itself 'echo'"),
        ("gone", "the kind of pipeline 'gone' of an installed package cannot be loaded: KeyError: 'GONE'"),
    ):
        with pytest.raises(ConfigError, match=message):
            get_kind(name)


def test_settings_of_no_kind(installed: dict[str, str]) -> None:
    assert not installed
    with pytest.raises(ConfigError, match=r"no kind of pipeline has settings of type EchoSettings\nknown: text, diffu"):
        kind_of(EchoSettings(times=1))


def test_a_kind_is_checked_when_it_is_made() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Taken:
        engines: int

    with pytest.raises(ConfigError, match="the settings of kind 'echo' have a field 'engines'\nrename it"):
        echo(settings=Taken)
    with pytest.raises(ConfigError, match="must be a dataclass"):
        echo(settings=dict)


def test_the_parser_takes_every_option_once() -> None:
    from aigc_runtime.cli.generate import add_options

    parser = argparse.ArgumentParser()
    add_options(parser)
    parsed = parser.parse_args([])
    names = {option.name for kind in KINDS.values() for option in kind.verb().options}
    assert set(vars(parsed)) == names
    assert set(vars(parsed).values()) == {None}
