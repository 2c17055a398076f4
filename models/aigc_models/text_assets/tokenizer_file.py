"""The tokenizer.json of a bundle: the folder's own, or the one that transformers would run in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aigc_models.families.layers import MAX_SIZE
from aigc_models.text_assets.by_sentencepiece import check_against_sentencepiece
from aigc_models.text_assets.by_transformers import transformers_tokenizer
from aigc_models.text_assets.special_tokens import Added, SpecialTokens, collect_special_tokens
from aigc_models.text_assets.text_files import MERGES, TOKENIZER, VOCABULARY, TextFiles, parse_json
from aigc_models.text_assets.tokenizer_classes import AS_IT_IS, CLASSES, choose_class
from aigc_runtime.errors import CheckpointError, ConfigError
from aigc_runtime.generation.tokenizers.huggingface import import_tokenizers, library_errors

__all__ = ["TokenizerFile", "make_tokenizer_file"]


@dataclass(frozen=True, kw_only=True)
class TokenizerFile:
    """A tokenizer.json that runs as it is.

    Attributes:
        data: its content.
        special: the tokens that the folder names.
        notes: for the user.
    """

    data: bytes
    special: SpecialTokens
    notes: tuple[str, ...] = ()


def make_tokenizer_file(files: TextFiles, config: Mapping[str, Any]) -> TokenizerFile | None:
    """Make the tokenizer.json of a folder; None for a folder without a tokenizer.

    Args:
        files: of the folder.
        config: of the model.

    Raises:
        CheckpointError: a damaged file.
        ConfigError: a tokenizer that needs code of its own, or that nothing here converts.
    """
    settings = files.tokenizer_config
    _refuse_code(settings)
    has_vocabulary = files.vocabulary is not None and files.merges is not None
    if files.tokenizer is None and not has_vocabulary and files.sentencepiece is None:
        return None
    name = choose_class(config, settings, files.tokenizer)
    given = None if files.tokenizer is None else parse_json(files.tokenizer, TOKENIZER)
    known = CLASSES.get(name)
    special = collect_special_tokens(files, given, {} if known is None else known.defaults)
    if given is not None and name != AS_IT_IS and known is None:
        # A class of transformers' own may build it anew; one that it does not know takes the file as it is.
        if (built := transformers_tokenizer(files.folder, name)) is not None:
            return TokenizerFile(data=built, special=special)
        data = _with_tokens(files.tokenizer or b"", None, special, adds_named=False)
        note = f"{TOKENIZER} is read as it is: transformers, which may know its class {name!r} better, does not read it"
        return TokenizerFile(data=data, special=special, notes=(note,))
    if given is None:
        return _converted(files, name, special)
    if known is None or _model_type(given) != "BPE":
        return TokenizerFile(
            data=_with_tokens(files.tokenizer or b"", None, special, adds_named=False), special=special
        )
    parts = known.parts(settings, special)
    parts["model"] |= {key: given["model"].get(key) for key in ("vocab", "merges")}
    post_processor = given.get("post_processor") if known.keeps_post_processor else None
    if known.post_processor is not None:
        post_processor = known.post_processor(special, parts["model"]["vocab"] or {})
    assembled = _assembled(parts, post_processor)
    return TokenizerFile(data=_with_tokens(None, assembled, special, adds_named=known.adds_named), special=special)


def _refuse_code(settings: Mapping[str, Any]) -> None:
    code = settings.get("auto_map")
    if (isinstance(code, Mapping) and code.get("AutoTokenizer")) or isinstance(code, (list, tuple)):
        raise ConfigError(
            "tokenizer_config.json asks for code of its own (auto_map), which is not run",
            hint="save the tokenizer as tokenizer.json with transformers, and remove auto_map",
        )
    if settings.get("split_special_tokens"):
        raise ConfigError(
            "tokenizer_config.json has split_special_tokens, which is not supported", hint="remove it, if it may go"
        )


def _model_type(tokenizer: Mapping[str, Any]) -> str:
    model = tokenizer.get("model")
    if not isinstance(model, Mapping):
        raise CheckpointError(f"{TOKENIZER} has no 'model'", hint="the file is damaged: get it again")
    return str(model.get("type") or ("BPE" if "merges" in model else ""))


def _assembled(parts: Mapping[str, Any], post_processor: Any) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        **{key: parts[key] for key in ("normalizer", "pre_tokenizer")},
        "post_processor": post_processor,
        **{key: parts[key] for key in ("decoder", "model")},
    }


def _converted(files: TextFiles, name: str, special: SpecialTokens) -> TokenizerFile:
    """A tokenizer.json of older files."""
    known = CLASSES.get(name)
    if files.vocabulary is not None and files.merges is not None and known is not None:
        parts = known.parts(files.tokenizer_config, special)
        merges = [line for line in map(str.rstrip, files.merges) if line and not line.startswith("#version")]
        parts["model"] |= {"vocab": dict(files.vocabulary), "merges": merges}
        post_processor = (
            _around(files.tokenizer_config, special, files.vocabulary)
            if known.post_processor is None
            else known.post_processor(special, files.vocabulary)
        )
        data = _with_tokens(None, _assembled(parts, post_processor), special, adds_named=known.adds_named)
        note = f"{VOCABULARY} and {MERGES} were made into a {TOKENIZER}"
        return TokenizerFile(data=data, special=special, notes=(note,))
    built = transformers_tokenizer(files.folder, name)
    what = files.sentencepiece or f"{VOCABULARY} and {MERGES} of class {name!r}"
    if built is None:
        raise ConfigError(
            f"the folder has no {TOKENIZER}, and {what} cannot be converted here",
            hint=f"get the model's {TOKENIZER}, or install transformers and sentencepiece, which may convert it",
        )
    if files.sentencepiece is not None and files.folder is not None:
        check_against_sentencepiece(built, files.folder / files.sentencepiece)
    return TokenizerFile(data=built, special=special, notes=(f"{what} was converted by transformers",))


def _around(settings: Mapping[str, Any], special: SpecialTokens, vocabulary: Mapping[str, Any]) -> Any:
    """The post-processor that puts BOS and EOS around a text, where tokenizer_config.json says so."""
    before, after = (
        special.text(f"{end}_token") if settings.get(f"add_{end}_token") else None for end in ("bos", "eos")
    )
    names = [name for name in (before, after) if name is not None]
    if not names:
        return None

    def one(name: str | None, kind: int) -> list[Any]:
        return [] if name is None else [{"SpecialToken": {"id": name, "type_id": kind}}]

    def text(letter: str, kind: int) -> list[Any]:
        return [*one(before, kind), {"Sequence": {"id": letter, "type_id": kind}}, *one(after, kind)]

    if lost := [name for name in names if name not in vocabulary]:
        raise CheckpointError(f"{VOCABULARY} lacks {lost[0]!r}, which begins or ends a text", hint="get it again")
    return {
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": [*text("A", 0), *text("B", 1)],
        "special_tokens": {
            name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]} for name in dict.fromkeys(names)
        },
    }


def _with_tokens(
    data: bytes | None, value: Mapping[str, Any] | None, special: SpecialTokens, *, adds_named: bool
) -> bytes:
    """Add the tokens that are lacking, in transformers' order; a file that lacks none stays as it is."""
    source = json.dumps(value, ensure_ascii=False).encode("utf-8") if data is None else data
    library = import_tokenizers()
    with library_errors(f"{TOKENIZER} cannot be read", CheckpointError, "the file is damaged: get it again"):
        tokenizer = library.Tokenizer.from_str(source.decode("utf-8"))
        present = {_flags(token) for token in tokenizer.get_added_tokens_decoder().values()}
        names = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        wanted = [token for token in special.by_id.values() if _flags(token) not in present]
        names |= {token.content for token in wanted}
        for token in (*special.named.values(), *special.extra):
            if token.content not in names:
                wanted.append(token)
                names.add(token.content)
        called = {token.content for token in special.named.values()}
        wanted = [_made_special(token) if token.content in called else token for token in wanted]
        if adds_named:
            contents = dict.fromkeys(token.content for token in (*special.named.values(), *special.extra))
            wanted += [Added.plain(content) for content in contents]
        if not wanted and data is not None:
            return data
        for token in wanted:
            tokenizer.add_tokens([library.AddedToken(**vars(token))])
        largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        if largest > MAX_SIZE:  # the library counts through all that lie between, for minutes
            raise ValueError(f"a token has the id {largest:,}")
        return str(tokenizer.to_str()).encode("utf-8")


def _flags(token: Any) -> tuple[Any, ...]:
    return (token.content, token.special, token.normalized, token.single_word, token.lstrip, token.rstrip)


def _made_special(token: Added) -> Added:
    return Added(**{**vars(token), "special": True})
