"""The manifest: what is written reads back, what is inconsistent is refused, no damage gives a traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigc_runtime.bundle.manifest import FileInfo, Manifest, check_file_name
from aigc_runtime.bundle.manifest_file import MAX_MANIFEST_BYTES, dump_manifest, parse_manifest
from aigc_runtime.errors import BundleError, ConfigError

from .. import toys

NAMES = ("toy_lm_growing", "toy_lm_buffer", "toy_unet", "toy_gan")
Json = dict[str, Any]


@pytest.fixture(params=NAMES)
def plain(request: pytest.FixtureRequest, toy_bundles: Path) -> Json:
    """A manifest as plain JSON, to be changed."""
    value: Json = json.loads((toy_bundles / request.param / "manifest.json").read_bytes())
    return value


def interface(m: Any) -> Any:
    """Of the only engine."""
    return m["engines"]["model"]["interface"]


def parse(value: Json) -> Manifest:
    return parse_manifest(json.dumps(value).encode())


def test_round_trip(toy_bundles: Path) -> None:
    for name in NAMES:
        data = (toy_bundles / name / "manifest.json").read_bytes()
        manifest = parse_manifest(data)
        assert dump_manifest(manifest) == data
        assert manifest.files


FREE = ("model_config", "provenance", "reference.generation.request")


def is_refused(value: Json) -> bool:
    try:
        parse(value)
    except BundleError:
        return True
    return False


def test_every_field_is_required_and_no_other_is_taken(plain: Json) -> None:
    for path, _ in walk(plain):
        where = ".".join(str(key) for key in path)
        if where.startswith(FREE):
            continue
        parent = at(plain, path[:-1])
        if isinstance(parent, dict) and path[-1] not in plain["reference"]["cases"][0]["steps"][0]["inputs"]:
            changed = copy.deepcopy(plain)
            del at(changed, path[:-1])[path[-1]]
            assert is_refused(changed), where
    for path, value in [((), plain), *walk(plain)]:
        if isinstance(value, dict) and not ".".join(map(str, path)).startswith(FREE):
            changed = copy.deepcopy(plain)
            at(changed, path)["zz"] = {"zz": 1}
            assert is_refused(changed), path


EDITS: list[tuple[Callable[[Json], object], str]] = [
    (lambda m: m.update(format="other"), "not that of an aigc-export bundle"),
    (
        lambda m: m.update(format_version=2),
        r"format version 2, this runtime reads 1\nupgrade the runtime \(pip install",
    ),
    (lambda m: m.update(format_version=2, new=1), "format version 2, this runtime reads 1"),
    (lambda m: m.update(format_version=0), "has format_version 0, this runtime reads 1"),
    (lambda m: m.update(format_version=True), "has format_version True"),
    (lambda m: m.update(format_version="1"), "has format_version '1'"),
    (lambda m: m["pipeline"].update(kind="video"), r"\$\.pipeline\.kind is 'video'\nvalid: diffusion, gan, te"),
    (lambda m: m["pipeline"].update(kind=["text"]), r"\$\.pipeline\.kind is \['text'\]"),
    (lambda m: m["pipeline"].update(kind="gam"), r"\$\.pipeline\.kind is 'gam'\nvalid: .* Did you mean 'gan'\?"),
    (lambda m: m.update(pipeline=[]), r"\$\.pipeline is \[\], expected an object"),
    (lambda m: m["pipeline"].update(engines={"model": "none"}), "engines has no 'none', which the pipeline drives as"),
    (lambda m: m["pipeline"].update(engines={"decode": "model"}), "pipeline with engines for decode\nit needs: model"),
    (lambda m: m["pipeline"].update(engines={}), "pipeline with engines for nothing\nit needs: model"),
    (lambda m: m["pipeline"].update(engines="model"), r"\$\.pipeline\.engines is a string, expected an object"),
    (
        lambda m: m["pipeline"].update(engines={"model": 1}),
        r"\$\.pipeline\.engines\.model is the number 1, expected str",
    ),
    (lambda m: m.update(engines={"other": m["engines"]["model"]}), "the only engine is called 'other'\nmust be model"),
    (lambda m: m.update(files=[]), r"lists no files"),
    (lambda m: m["files"].append(dict(m["files"][0])), "differ in case only, or twice"),
    (lambda m: m["files"].append({**m["files"][0], "path": "MODEL.onnx"}), "differ in case only"),
    (lambda m: m["files"][0].update(path="../model.onnx"), "not allowed in a bundle"),
    (lambda m: m["files"][0].update(size=-1), "has size -1"),
    (lambda m: m["files"][0].update(size=2**51), "has size"),
    (lambda m: m["files"][0].update(sha256="0" * 63), "has digest"),
    (lambda m: m["files"][0].update(sha256="A" * 64), "has digest"),
    (lambda m: m["files"][0].update(sha256="0" * 64 + "\n"), "has digest"),
    (lambda m: m["engines"]["model"].update(file="other.onnx"), r"files lacks \['other.onnx'\]"),
    (lambda m: interface(m)["inputs"][0].update(dtype="float64"), "has dtype 'float64'"),
    (lambda m: interface(m)["inputs"][0].update(shape=[]), "is a scalar: it has no dimension"),
    (lambda m: interface(m)["inputs"][0].update(shape=["batch", 0]), "sizes must be from 1"),
    (
        lambda m: interface(m)["inputs"][0].update(shape=["batch", "nowhere"]),
        r"'nowhere', which dims does not declare",
    ),
    (
        lambda m: interface(m)["inputs"].append(interface(m)["inputs"][0]),
        "inputs holds a name twice",
    ),
    (lambda m: interface(m).update(inputs=[]), "an engine needs inputs|no input has"),
    (lambda m: interface(m).update(outputs=[]), "an engine needs inputs"),
    (
        lambda m: interface(m)["outputs"][0].update(shape=["batch", "nowhere"]),
        "'nowhere', which no input has",
    ),
    (
        lambda m: interface(m)["dims"].append(interface(m)["dims"][0]),
        "dims holds a name twice",
    ),
    (lambda m: interface(m)["dims"][0].update(min=9, max=8), "need 0 <= min <= max"),
    (lambda m: interface(m)["dims"][0].update(multiple_of=0), "multiple_of >= 1"),
    (lambda m: m["tolerances"].update(tensor=dict.fromkeys(m["tolerances"]["tensor"])), "without any limit"),
    (lambda m: m["reference"].update(cases=[]), "nothing could be verified"),
    (lambda m: m["reference"]["cases"][0]["steps"][0].update(outputs={}), "nothing could be verified"),
    (lambda m: m["reference"]["cases"][0]["steps"][0].update(inputs={}), "other inputs or outputs than the engine"),
    (lambda m: m["reference"]["generation"]["outputs"].update(z="gone.npy"), r"files lacks \['gone.npy'\]"),
    (
        lambda m: m["reference"]["generation"]["outputs"].update(z="model.onnx"),
        r"reference\.generation\.outputs names \[.*'z'\]\nthe request gives \['(tokens|images)'\]",
    ),
    (lambda m: m["reference"]["generation"].update(outputs={}), r"outputs names \[\]\nthe request gives"),
]


@pytest.mark.parametrize(("edit", "message"), EDITS)
def test_inconsistent_manifests(edit: Callable[[Json], object], message: str, plain: Json) -> None:
    edit(plain)
    with pytest.raises(BundleError, match=message):
        parse(plain)


STATE_EDITS: list[tuple[Callable[[Json], object], str]] = [
    (lambda s: s.update(kind="ring"), r"valid: growing, buffer"),
    (lambda s: s.update(axis=0), "'batch' must be one size"),
    (lambda s: s.update(axis=-1), "axis -1 outside shape"),
    (lambda s: s.update(axis=4), "axis 4 outside shape"),
    (lambda s: s.update(dtype="complex64"), "has dtype 'complex64'"),
    (lambda s: s.update(shape=[1, 1, 32, 1]), "'batch' must be one size"),
    (lambda s: s.update(shape=["batch", "batch", 32, 1]), "'batch' must be one size"),
    (lambda s: s.update(shape=["batch", 1, "2*past", 1]), "of size '2\\*past'|every size but 'batch' must be a number"),
    (lambda s: s.update(shape=["batch", 1, "past ", 1]), "has size 'past '\nwrite it as 'past'"),
    (lambda s: s.update(step_dim="past"), "'past', which no input has|a named dimension of its own"),
    (lambda s: s.update(step_dim=None), "has step_dim=None"),
    (lambda s: s.update(kind="recurrent"), "of kind 'recurrent' has axis=2"),
    (lambda s: s.update(kind="window", length_input=None), "of kind 'window' has length_input=None"),
    (lambda s: s.update(length_input="input_ids", kind="buffer", shape=["batch", 1, 32, 1]), "inputs holds a name"),
    (lambda s: s.update(length_input=None, kind="buffer"), "has length_input=None"),
    (lambda s: s.update(length_input="n", kind="growing"), "has length_input='n'"),
    (
        lambda s: s.update(length_input="n", kind="buffer", shape=["batch", 1, "past+1", 1]),
        "every size but 'batch' must be a number",
    ),
    (lambda s: s.update(output="logits"), "outputs holds a name twice"),
]


@pytest.mark.parametrize("name", ["toy_lm_growing", "toy_lm_buffer"])
@pytest.mark.parametrize(("edit", "message"), STATE_EDITS)
def test_inconsistent_state(edit: Callable[[Json], object], message: str, name: str, toy_bundles: Path) -> None:
    plain = json.loads((toy_bundles / name / "manifest.json").read_bytes())
    edit(plain["state"]["carried"][0])
    with pytest.raises(BundleError, match=message):
        parse(plain)


def test_states_that_disagree() -> None:
    manifest, _ = toys.toy_manifest("toy_lm_growing")
    (first,) = manifest.interface.state
    (buffer,) = toys.lm_state("buffer")
    second = replace(buffer, input="past_2", output="present_2")
    with pytest.raises(ConfigError, match="the carried state steps along batch and sequence"):
        replace(manifest, state={"carried": (first, replace(second, step_dim="batch"))})
    assert len(replace(manifest, state={"carried": (first, second)}).interface.state) == 2


def test_a_kind_with_settings_of_another() -> None:
    manifest, _ = toys.toy_manifest("toy_gan")
    with pytest.raises(ConfigError, match="pipeline of kind 'gan' with TextSettings"):
        replace(manifest.pipeline, settings=toys.TEXT)


def test_a_version_that_nothing_reads_is_not_written() -> None:
    manifest, _ = toys.toy_manifest("toy_gan")
    with pytest.raises(ConfigError, match=r"format_version is 2\nknown: 1"):
        replace(manifest, format_version=2)


def test_size_and_kind_of_the_file() -> None:
    with pytest.raises(BundleError, match="at most 1,048,576 are allowed"):
        parse_manifest(b" " * (MAX_MANIFEST_BYTES + 1))
    for data in (b"[]", b"null", b'"aigc-bundle"'):
        with pytest.raises(BundleError, match="not that of an aigc-export bundle"):
            parse_manifest(data)


BAD_NAMES = ["", ".", "..", "../a", "a/b", "a\\b", "/a", "C:a", "a\0", "a\n", ".hidden", "-o", "a b", "é", "a.", "CON"]
BAD_NAMES += ["con.txt", "LPT1", "nul.onnx", "a" * 129, "manifest.json", "MANIFEST.JSON", "a:b", "~", "a*", "%2e%2e"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_not_plain_file_names(name: str) -> None:
    with pytest.raises(ConfigError, match="not allowed in a bundle"):
        check_file_name(name)
    with pytest.raises(ConfigError):
        FileInfo(path=name, size=0, sha256="0" * 64)


@pytest.mark.parametrize("name", ["model.onnx", "_a", "0", "a-b_c.D", "a" * 128, "console", "com.txt"])
def test_plain_names(name: str) -> None:
    check_file_name(name)


def walk(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value inside a JSON value, with its path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key), inner
        yield from walk(inner, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value
