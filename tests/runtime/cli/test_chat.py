"""Text on the command line: prompts of every sort, chats from files, a conversation through a pipe."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigc_runtime.bundle.bundle import write_bundle
from aigc_runtime.bundle.pipeline_info import PipelineInfo
from aigc_runtime.cli.main import run
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.generation.tokenizers import TokenizerInfo
from aigc_runtime.pipelines.chat import ChatSession
from aigc_runtime.pipelines.text import TextResult

from .. import toys

pytest.importorskip("jinja2")
pytest.importorskip("onnxruntime")

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The toy language model with a chat template; a context of 32 bytes."""
    return str(toys.write_chat_bundle(tmp_path_factory.mktemp("chat") / "toy_chat"))


def said(prompt: str, count: int) -> list[int]:
    tokens = list(prompt.encode())
    for _ in range(count):
        tokens.append(toys.next_token(tokens))
    return tokens[len(prompt.encode()) :]


def printed(capsys: Capture, *arguments: str) -> dict[str, Any]:
    assert run([*arguments, "--json"]) == 0, capsys.readouterr().err
    told = json.loads(capsys.readouterr().out)
    assert isinstance(told, dict)
    return told


def text_of(tokens: list[int]) -> str:
    return bytes(tokens).decode("utf-8", errors="replace")


def test_a_chat_is_one_message(bundle: str, capsys: Capture) -> None:
    told = printed(capsys, "generate", bundle, "--chat", "hi", "--system", "x", "--max-new-tokens", "3")
    system, user = {"role": "system", "content": "x"}, {"role": "user", "content": "hi"}
    assert told["prompts"] == [{"messages": [system, user]}]
    (result,) = told["results"]
    assert result["token_ids"] == said("sxuhi", 3)
    assert (result["prompt"], result["finish_reason"], result["logprobs"], result["score"]) == (0, "length", None, None)
    assert run(["generate", bundle, "--chat", "hi", "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().out == text_of(said("uhi", 3)) + "\n"


def test_token_ids_give_token_ids(bundle: str, capsys: Capture) -> None:
    arguments = ["generate", bundle, "--token-ids", "104, 105", "--max-new-tokens", "3"]
    assert run(arguments) == 0
    assert capsys.readouterr().out == ",".join(map(str, said("hi", 3))) + "\n"
    told = printed(capsys, *arguments)
    assert told["prompts"] == [{"token_ids": [104, 105]}]
    assert told["results"][0]["token_ids"] == said("hi", 3)


CHATS: dict[str, tuple[str, list[str]]] = {
    "a list": ('[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}]', ["uhiaa"]),
    "an object": ('{"messages": [\n{"role": "user", "content": "hi"}], "tools": [{}, {}]}', ["uhi2"]),
    "messages line by line": ('{"role": "user", "content": "hi"}\n\n{"role": "user", "content": "b"}\n', ["uhiub"]),
    "chats line by line": (
        '{"messages": [{"role": "user", "content": "hi"}]}\n[{"role": "a", "content": "b"}]',
        ["uhi", "ab"],
    ),
    "one line": ('\ufeff{"role": "user", "content": "hi"}', ["uhi"]),
}


@pytest.mark.parametrize("form", CHATS)
def test_chats_come_from_a_file(
    form: str, bundle: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, prompts = CHATS[form]
    (tmp_path / "m.jsonl").write_text(content, encoding="utf-8")
    arguments = ["generate", bundle, "--max-new-tokens", "2", "--messages"]
    told = printed(capsys, *arguments, str(tmp_path / "m.jsonl"))
    assert [result["token_ids"] for result in told["results"]] == [said(prompt, 2) for prompt in prompts]
    assert [result["prompt"] for result in told["results"]] == list(range(len(prompts)))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert printed(capsys, *arguments, "-")["prompts"] == told["prompts"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no messages"),
        (" \n ", "holds no messages"),
        ("[", "m.jsonl' is not valid"),
        ("5", "m.jsonl' is 5\n  a chat is a list of messages, at least one"),
        ("[]", "m.jsonl' is []\n  a chat is a list"),
        ('[{"role": "user"}, 5]', "m.jsonl', message 1 is 5\n  a message is such as"),
        ('[{"role": 5}]', "message 0 is {'role': 5}"),
        ('{"message": []}', "m.jsonl' has 'message'\n  a chat has: messages, tools"),
        ('{"messages": [{"role": "a"}], "id": 3}', "has 'messages', 'id'\n  a chat has: messages, tools"),
        ('{"messages": [{"role": "a"}], "tools": 3}', "tools is 3\n  must be a list of objects"),
        ('[{"role": "a", "content": "b"}]\n{"messages": [}', "line 2 of "),
        ('[{"role": "a", "content": "b"}]\n{"role": "a"}', "line 2 of "),
        ('{"role": "a", "content": "b"}\n\n5', "line 1 of"),
        ('[{"role": "a", "role": "b"}]', "duplicate key 'role'"),
        ('[{"role": "a", "content": "' + "x" * 40 + '"}]', "error: the chat has 41 tokens, the context holds 32"),
        (
            '[{"role": "a", "content": "b"}]\n[{"role": "a", "content": "' + "x" * 40 + '"}]',
            "error: chat 2 of 2: the chat has 41 tokens, the context holds 32",
        ),
    ],
)
def test_files_that_are_no_chats(content: str, message: str, bundle: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "m.jsonl").write_text(content)
    assert run(["generate", bundle, "--messages", str(tmp_path / "m.jsonl")]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.out == ""


def test_several_results_are_told_apart(bundle: str, capsys: Capture) -> None:
    arguments = ["generate", bundle, "--chat", "hi", "--max-new-tokens", "3", "--temperature", "40", "--seed", "2"]
    told = printed(capsys, *arguments, "--num-return-sequences", "3", "--logprobs", "2")
    texts = [result["text"] for result in told["results"]]
    assert len(set(texts)) == 3
    assert [len(result["logprobs"]["top"][0]) for result in told["results"]] == [2, 2, 2]
    assert run([*arguments, "--num-return-sequences", "3"]) == 0
    assert capsys.readouterr().out == "".join(f"--- {i} of 3 ---\n{text}\n" for i, text in enumerate(texts, start=1))
    assert run([*arguments, "--num-return-sequences", "1"]) == 0
    assert capsys.readouterr().out == texts[0] + "\n"


def test_every_sampling_option_has_a_flag(bundle: str, capsys: Capture) -> None:
    options = {
        "--temperature": "0.5",
        "--top-k": "3",
        "--top-p": "0.5",
        "--min-p": "0.1",
        "--typical-p": "0.9",
        "--repetition-penalty": "1.1",
        "--frequency-penalty": "0.2",
        "--presence-penalty": "-0.2",
        "--no-repeat-ngram-size": "4",
        "--min-new-tokens": "1",
        "--sequence-bias": "5,6=-2.5",
        "--bad-words-ids": "7,8",
        "--suppress-tokens": "1,2",
        "--begin-suppress-tokens": "3",
        "--num-beams": "1",
        "--length-penalty": "0.5",
        "--early-stopping": "True",
    }
    assert {flag[2:].replace("-", "_") for flag in options} == set(SamplingParams.__dataclass_fields__)
    for flag, value in options.items():
        assert run(["generate", bundle, "--prompt", "a", "--max-new-tokens", "1", flag, value]) == 0, flag
    capsys.readouterr()
    banned = [word for token in said("hi", 1) for word in ("--suppress-tokens", str(token))]
    assert (
        printed(capsys, "generate", bundle, "--prompt", "hi", *banned)["results"][0]["token_ids"][0] != said("hi", 1)[0]
    )
    beams = printed(capsys, "generate", bundle, "--prompt", "hi", "--num-beams", "3", "--max-new-tokens", "2")
    assert beams["results"][0]["score"] < 0
    assert run(["generate", bundle, "--prompt", "hi", "--num-beams", "3", "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().out == "hi" + beams["results"][0]["text"] + "\n"


def test_options_that_mean_nothing_are_said(bundle: str, capsys: Capture) -> None:
    arguments = ["generate", bundle, "--prompt", "a", "--max-new-tokens", "1"]
    assert run([*arguments, "--top-k", "3", "--length-penalty", "2"]) == 0
    told = capsys.readouterr().err
    assert (
        told
        == "note: --top-k means nothing at temperature 0\nnote: --length-penalty means nothing without --num-beams\n"
    )
    assert run([*arguments, "--top-k", "3", "--temperature", "1"]) == 0
    assert capsys.readouterr().err == ""


def test_a_full_context_is_said(bundle: str, capsys: Capture) -> None:
    for sort in (["--prompt", "a" * 30], ["--token-ids", ",".join(["97"] * 30)]):
        assert run(["generate", bundle, *sort]) == 0
        assert capsys.readouterr().err == "note: the context of 32 tokens is full\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--prompt", "a", "--chat", "b"],
            "give exactly one of --prompt, --prompt-file, --chat, --messages, --token-ids",
        ),
        (["--system", "a", "--prompt", "b"], "--system without --chat"),
        (["--prompt", "a", "--logprobs", "2"], "--logprobs without --json"),
        (["--token-ids", "1,x"], "'1,x' is not token ids"),
        (["--token-ids", "-1"], "'-1' holds -1: token ids begin at 0"),
        (["--token-ids", "256"], "prompt 0 has token ids from 256 to 256"),
        (["--token-ids", "9" * 30], "prompt 0 is (99999999999999"),
        (["--prompt", "a", "--sequence-bias", "5"], "--sequence-bias is '5'\n  must be IDS=NUMBER"),
        (["--prompt", "a", "--sequence-bias", "5=x"], "--sequence-bias is '5=x'"),
        (["--prompt", "a", "--suppress-tokens", "999"], "suppress_tokens holds token 999"),
        (["--prompt", "a", "--early-stopping", "maybe"], "early_stopping is 'maybe'"),
        (["--prompt", "a", "--num-beams", "2", "--temperature", "1"], "a beam search draws nothing"),
        (["--prompt", "a", "--num-beams", "2", "--num-return-sequences", "3"], "num_return_sequences is 3, num_beams"),
        (["--prompt", "a", "--num-beams", "2", "--logprobs", "1"], "num_beams is 2, logprobs 1\n  a beam search gives"),
        (["--prompt", "a", "--num-beams", "9"], "this engine takes at most 8 rows at once"),
        (["--prompt", "a", "--num-return-sequences", "0"], "num_return_sequences is 0"),
        (["--prompt", "a", "--prefill-chunk", "0"], "prefill_chunk is 0"),
        (["--prompt", "a", "--prompt-lookup-num-tokens", "99"], "prompt_lookup_num_tokens is 99\n  must be"),
        (["--prompt", "a", "--prompt-lookup-num-tokens", "9", "--num-beams", "2"], "a beam search looks nothing up"),
        (["--messages", "/no/such/file"], "cannot read the messages from '/no/such/file'"),
    ],
)
def test_bad_requests(options: list[str], message: str, bundle: str, capsys: Capture) -> None:
    assert run(["generate", bundle, *options]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.out == ""


@pytest.mark.parametrize("options", [["--num-return-sequences", "3"], ["--logprobs", "1", "--json"]])
def test_what_a_beam_search_cannot_do_is_said_before_an_engine_is_loaded(
    options: list[str], bundle: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("aigc_runtime.cli.generate.open_pipeline")
    assert run(["generate", bundle, "--prompt", "a", "--num-beams", "2", *options]) == 2
    assert "num_beams" in capsys.readouterr().err


def conversation(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))


def test_a_conversation_through_a_pipe(bundle: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("h", "", "b", "/reset", "h", "/system x", "//h", "/what", "/exit", "never")
    conversation(monkeypatch, *lines)
    arguments = ["chat", bundle, "--max-new-tokens", "2"]
    assert run(arguments) == 0
    told = capsys.readouterr()
    first = text_of(said("uh", 2))
    second = text_of(said(f"uha{first}ub", 2))
    assert told.out == "".join(f"{text}\n" for text in (first, second, first, text_of(said("sxu/h", 2))))
    assert told.err.startswith("there is no command /what\n/reset begins anew")
    conversation(monkeypatch, "h", "b")
    report = printed(capsys, *arguments, "--system", "y")
    assert [message["role"] for message in report["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert report["turns"][0]["token_ids"] == said("syuh", 2)
    assert report["turns"][0]["reused_tokens"] == 0
    assert report["turns"][1]["reused_tokens"] >= 4


def test_a_conversation_that_fills_the_context_says_so(
    bundle: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation(monkeypatch, "hello", "more")
    assert run(["chat", bundle]) == 2
    told = capsys.readouterr()
    assert "note: the context of 32 tokens is full\n" in told.err
    assert "tokens, the context holds 32\n  begin anew" in told.err


@pytest.mark.parametrize(
    ("data", "options", "code", "message"),
    [
        (b"", [], 0, ""),
        (b"h\xff", [], 2, "line 1 is not UTF-8: byte 2"),
        (b"h", ["--max-new-tokens", "0"], 2, "max_new_tokens is 0"),
        (b"h", ["--num-beams", "2"], 2, "the text of a beam search is known at its end"),
        (b"h", ["--prompt", "a"], 2, "unrecognized arguments: --prompt a"),
    ],
)
def test_a_conversation_ends_in_order(
    data: bytes,
    options: list[str],
    code: int,
    message: str,
    bundle: str,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert run(["chat", bundle, *options]) == code
    assert message in capsys.readouterr().err


def test_what_cannot_chat_is_named(toy_bundles: Path, capsys: Capture) -> None:
    assert run(["chat", str(toy_bundles / "toy_gan")]) == 2
    assert "chat means nothing to a gan bundle" in capsys.readouterr().err
    for arguments in (
        ["chat", str(toy_bundles / "toy_lm_growing")],
        ["generate", str(toy_bundles / "toy_lm_growing"), "--chat", "a"],
    ):
        assert run(arguments) == 2
        assert "this model has no chat template, so that it takes no messages" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_conversation(number: int, bundle: str) -> None:
    command = [sys.executable, "-m", "aigc_runtime", "chat", bundle, "--max-new-tokens", "2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"h\n")
        process.stdin.flush()
        first = process.stdout.readline()
        process.send_signal(number)
        rest, err = process.communicate(timeout=60)
    assert first.rstrip(b"\n") == text_of(said("uh", 2)).encode()
    assert process.returncode == 128 + number
    assert rest in (b"", b"\n")  # the write of the line end that the signal broke off is made again
    assert err.decode() == "error: interrupted\n"


class Terminal(io.TextIOWrapper):
    """Standard input that somebody types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_at_a_terminal_ends_the_answer_and_a_second_one_the_program(
    times: int, bundle: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(io.BytesIO(b"h\nb\n")))
    monkeypatch.setattr("aigc_runtime.system.interrupts.SAME_SECONDS", 0.0)
    show = ChatSession.send
    turns: list[ChatSession] = []

    def interrupted(chat: ChatSession, text: str, **options: Any) -> Iterator[str]:
        stream = show(chat, text, **options)
        turns.append(chat)
        if len(turns) > 1:
            return stream

        def pieces() -> Generator[str, None, TextResult]:
            yield next(stream) + next(stream)
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            return (yield from stream)

        return pieces()

    monkeypatch.setattr(ChatSession, "send", interrupted)
    code = run(["chat", bundle, "--json", "--max-new-tokens", "8"])
    told = capsys.readouterr()
    if times == 2:
        assert (code, told.out) == (130, "")
        return
    assert code == 0
    assert "note: the answer was broken off; what there is of it stays in the conversation\n" in told.err
    first, second = json.loads(told.out)["turns"]
    assert (first["finish_reason"], first["token_ids"]) == ("cancelled", said("uh", len(first["token_ids"])))
    assert 2 <= len(first["token_ids"]) < 8
    assert second["finish_reason"] == "length"
    assert second["token_ids"] == said(f"uha{first['text']}ub", 8)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="terminals of POSIX")
def test_a_conversation_on_a_terminal(bundle: str) -> None:
    """What is wrong is said and the conversation goes on; the speed of a turn is told; the end of the input ends it."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "aigc_runtime", "chat", bundle, "--max-new-tokens", "2"]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, b"h\n" + b"x" * 40 + b"\n/reset\n\x04")
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # Linux: the other side is closed
            pass
        out, _ = process.communicate(timeout=60)
    os.close(ours)
    told = shown.decode(errors="replace").replace("\r\n", "\n")
    assert process.returncode == 0, told
    assert out == text_of(said("uh", 2)).encode() + b"\n"
    assert told.count("> ") == 4
    assert "tokens/s; the first after" in told
    assert "error: the chat has" in told
    assert "begin anew, or leave messages out" in told


def test_a_model_without_a_tokenizer_takes_ids(tmp_path: Path, capsys: Capture) -> None:
    manifest, files = toys.toy_manifest("toy_lm_growing")
    settings = replace(toys.TEXT, tokenizer=TokenizerInfo(kind="none"))
    generation = replace(manifest.reference.generation, request={"prompts": [[97, 98]], "max_new_tokens": 6, "seed": 0})
    reference = replace(manifest.reference, generation=generation)
    write_bundle(tmp_path / "b", replace(manifest, pipeline=PipelineInfo.of(settings), reference=reference), files)
    assert run(["generate", str(tmp_path / "b"), "--token-ids", "104,105", "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().out == ",".join(map(str, said("hi", 3))) + "\n"
    for verb in ("verify", "bench"):
        assert run([verb, str(tmp_path / "b"), "--threads", "1"]) == 0
    capsys.readouterr()
    assert run(["generate", str(tmp_path / "b"), "--prompt", "hi"]) == 2
    assert "this model has no tokenizer, so that it takes no text\n  give token ids" in capsys.readouterr().err
