"""Bundles whose token ids and prompts are replayed: what passes, what fails and names the text, what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigc_runtime.bundle.bundle import Bundle, write_bundle
from aigc_runtime.bundle.manifest import PipelineInfo
from aigc_runtime.cli.main import run
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.errors import BundleError, TextSupportMissingError
from aigc_runtime.generation.chat import ChatInfo
from aigc_runtime.generation.tokenizers import TokenizerInfo
from aigc_runtime.io.npy import write_npy
from aigc_runtime.opening import open_pipeline, open_session
from aigc_runtime.pipelines import make_pipeline
from aigc_runtime.pipelines.replay import run_request
from aigc_runtime.proof import text_vectors as module
from aigc_runtime.proof.verify import verify_bundle

from .. import toys

transformers: Any = pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from ..generation.tokenizers.makers import unigram  # noqa: E402 - behind the packages that it needs

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{{ m.role }}: {{ m.content }}</s>{% endfor %}"
)
SETTINGS = replace(
    toys.TEXT,
    tokenizer=TokenizerInfo(kind="huggingface", file="tokenizer.json"),
    chat=ChatInfo(templates={"default": "chat_template.jinja"}, special_tokens={"eos_token": "</s>"}),
)
ASSETS = {"tokenizer.json": unigram(), "chat_template.jinja": TEMPLATE.encode()}
TEXTS = ["the quick brown fox", "", "  spaces ", "日本語 👩‍🚀", "a</s>b", "\x00"]
CHATS = [[{"role": "user", "content": "the dog"}], [{"role": "tool", "content": "x"}]]


def recorded(folder: Path) -> dict[str, Any]:
    """The vectors, by transformers."""
    path = folder / "recorded.json"
    path.write_bytes(unigram())
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path), chat_template=TEMPLATE)
    texts, chats = [], []
    for text in TEXTS:
        ids = theirs.encode(text)
        bare = theirs.encode(text, add_special_tokens=False)
        decoded = theirs.decode(ids, skip_special_tokens=True)
        texts.append({"text": text, "ids": ids, "bare_ids": bare, "decoded": decoded})
    for messages in CHATS:
        chat: dict[str, Any] = {"messages": messages, "add_generation_prompt": False}
        vector: dict[str, Any] = {
            "chat": chat,
            "now": "2024-02-29T12:30:00",
            "prompt": None,
            "ids": [],
            "refused": None,
        }
        try:
            prompt = theirs.apply_chat_template(messages, tokenize=False)
            vector |= {"prompt": prompt, "ids": theirs.encode(prompt, add_special_tokens=False)}
        except Exception as err:  # noqa: BLE001 - what a template raises
            vector["refused"] = str(err)
        chats.append(vector)
    path.unlink()
    found = {"format": "aigc-text-vectors", "version": 1, "made_by": "transformers", "texts": texts, "chats": chats}
    return {**found, "prompts": []}


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return recorded(tmp_path_factory.mktemp("recorded"))


def write(folder: Path, vectors: Any, assets: dict[str, bytes] = ASSETS, **changes: Any) -> Path:
    """A toy bundle with a tokenizer and a chat template."""
    manifest, files = toys.toy_manifest("toy_lm_growing")
    settings = changes.pop("settings", SETTINGS)
    program = OpenProgram({"model": toys.lm_session()}, {}, ASSETS)
    request = {"prompts": ["the quick", [65, 66]], "max_new_tokens": 4}
    results = run_request(make_pipeline(program, SETTINGS), request)
    files |= {"ref.generation.npy": write_npy(next(iter(results.values()))), **assets}
    text = None
    if vectors is not None:
        files["ref.text.json"] = vectors if isinstance(vectors, bytes) else json.dumps(vectors).encode()
        text = "ref.text.json"
    generation = replace(manifest.reference.generation, request=request)
    manifest = replace(
        manifest,
        pipeline=PipelineInfo.of(settings),
        assets=tuple(assets),
        reference=replace(manifest.reference, text=text, generation=generation),
        **changes,
    )
    write_bundle(folder / "bundle", manifest, files)
    return folder / "bundle"


def verified(path: Path) -> Any:
    bundle = Bundle.open(path)
    return verify_bundle(bundle, OpenProgram({"model": open_session(bundle, threads=1)}, {}, bundle.assets))


def test_a_bundle_whose_texts_come_out_as_recorded(
    tmp_path: Path, vectors: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, vectors)
    report = verified(path)
    assert report.passed, report.failures
    assert (report.text.texts, report.text.chats, report.text.made_by) == (6, 2, "transformers")
    assert run(["verify", str(path)]) == 0
    assert "pass  tokens: 6 texts, 2 chats, recorded by transformers\n" in capsys.readouterr().out
    with open_pipeline(path) as pipeline:
        assert pipeline.generate("the quick", max_new_tokens=2)[0].prompt_tokens > 1
    assert dict(Bundle.open(path).assets) == ASSETS


def test_a_file_of_before_there_were_prompts(tmp_path: Path, vectors: dict[str, Any]) -> None:
    assert verified(write(tmp_path, {name: value for name, value in vectors.items() if name != "prompts"})).passed


def changed(place: tuple[Any, ...], value: Any) -> Callable[[dict[str, Any]], None]:
    def change(vectors: dict[str, Any]) -> None:
        inner: Any = vectors
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value

    return change


MISSED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "ids": (
        changed(("texts", 0, "ids"), [5]),
        r"tokens: text 'the quick brown fox': from place 0 its token ids are \[",
    ),
    "ids without special tokens": (
        changed(("texts", 2, "bare_ids"), []),
        r"tokens: text '  spaces ': from place 0 its",
    ),
    "a text": (
        changed(("texts", 0, "decoded"), "fox"),
        r"its ids are decoded to 'the quick brown fox', recorded 'fox'",
    ),
    "a prompt": (changed(("chats", 0, "prompt"), "user: the cat"), r"chat 'the dog': from place 10 the prompt is 'dog"),
    "ids of a prompt": (changed(("chats", 0, "ids"), [1]), r"chat 'the dog': from place 0 its token ids are"),
    "a refusal": (
        changed(("chats", 1, "prompt"), "tool: x"),
        r"chat 'x': the chat template refuses this chat: no tools",
    ),
    "no refusal": (changed(("chats", 0, "prompt"), None), r"the template takes it, recorded as refused: None"),
    "no texts": (changed(("texts",), []), "tokens: no text was compared"),
    "no chats": (changed(("chats",), []), "tokens: no chat was compared"),
    "a prompt of a picture": (
        changed(("prompts",), [{"text": "a", "ids": {"text_encoder": [1]}}]),
        "tokens: there are prompts to compare, and no text encoder",
    ),
    "no chat at all": (changed(("chats", 0, "chat", "messages"), []), "a chat has no messages"),
}


@pytest.mark.parametrize("name", list(MISSED))
def test_what_comes_out_otherwise_is_named(
    name: str, tmp_path: Path, vectors: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    edit, message = MISSED[name]
    edited = json.loads(json.dumps(vectors))
    edit(edited)
    path = write(tmp_path, edited)
    report = verified(path)
    assert not report.passed
    with pytest.raises(AssertionError, match=message):
        raise AssertionError("\n".join(report.failures))
    assert run(["verify", str(path)]) == 3
    assert "FAIL  tokens: " in capsys.readouterr().out


def test_another_tokenizer_or_template_fails(tmp_path: Path, vectors: dict[str, Any]) -> None:
    value = json.loads(unigram())
    value["normalizer"] = {"type": "Lowercase"}
    value["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}
    other = {**ASSETS, "tokenizer.json": json.dumps(value).encode()}
    reasons = verified(write(tmp_path, vectors, other)).text.reasons
    assert "texts differ)" in reasons[0]
    template = {**ASSETS, "chat_template.jinja": b"{{ messages[0].content }}"}
    assert verified(write(tmp_path, vectors, template)).text.reasons[0].endswith("(2 of 2 chats differ)")


REFUSED: dict[str, tuple[Any, str]] = {
    "no JSON": (b"[", "the file of texts is not valid"),
    "another form": (b'{"a": 1}', r"texts\.a is not a known field"),
    "another version": (lambda v: {**v, "version": 2}, r"is 'aigc-text-vectors' 2\nmust be 'aigc-text-vectors' 1"),
    "no time": (changed(("chats", 0, "now"), "soon"), r"chat 'the dog' is not one: Invalid isoformat"),
    "no argument": (changed(("chats", 0, "chat", "self"), 1), r"chat 'the dog' is not one: .*argument"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_damaged_file_is_refused(name: str, tmp_path: Path, vectors: dict[str, Any]) -> None:
    edit, message = REFUSED[name]
    data: Any = edit
    if callable(edit):
        edited = json.loads(json.dumps(vectors))
        data = edit(edited) or edited
    with pytest.raises(BundleError, match=message):
        verified(write(tmp_path, data))


def test_an_enormous_file_is_refused(tmp_path: Path, vectors: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, vectors)
    monkeypatch.setattr(module, "MAX_VECTORS_BYTES", 10)
    with pytest.raises(BundleError, match=r"the file of texts has [\d,]+ bytes\nat most 10 are read"):
        verified(path)


def test_a_tokenizer_without_proof_is_refused(tmp_path: Path, vectors: dict[str, Any]) -> None:
    from aigc_runtime.errors import OutputError

    with pytest.raises(OutputError, match=r"reference\.text is None"):
        write(tmp_path, None)
    with pytest.raises(OutputError, match=r"reference\.text is 'ref\.text\.json'"):
        write(tmp_path, vectors, {}, settings=toys.TEXT)


def test_a_package_that_is_not_installed_is_told(
    tmp_path: Path, vectors: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, vectors)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(TextSupportMissingError, match=r"pip install 'aigc-runtime\[text\]'"):
        verified(path)
    assert run(["info", str(path)]) == 0
    assert run(["verify", str(path)]) == 5
    assert "pip install 'aigc-runtime[text]'" in capsys.readouterr().err


def test_a_damaged_tokenizer_is_told(tmp_path: Path, vectors: dict[str, Any]) -> None:
    path = write(tmp_path, vectors, {**ASSETS, "tokenizer.json": b"{}"})
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
        open_pipeline(path)
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
        verified(path)
