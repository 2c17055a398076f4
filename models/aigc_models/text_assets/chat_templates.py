"""The chat templates of a folder, as files of the bundle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aigc_models.text_assets.special_tokens import SpecialTokens
from aigc_models.text_assets.text_files import MAX_TEMPLATES, TextFiles
from aigc_runtime.errors import BundleError, CheckpointError
from aigc_runtime.generation.chat import DEFAULT_TEMPLATE, MAX_TEMPLATE_BYTES, ChatInfo
from aigc_runtime.generation.chat_sandbox import compile_template
from aigc_runtime.io.printable import shown

__all__ = ["collect_chat"]

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def collect_chat(files: TextFiles, special: SpecialTokens) -> tuple[ChatInfo | None, dict[str, bytes], tuple[str, ...]]:
    """Collect them: what the settings say of them, their files, and notes for the user.

    Raises:
        CheckpointError: a chat_template that is none.
    """
    templates = files.templates or _in_config(files.tokenizer_config)
    if not templates:
        return None, {}, ()
    if DEFAULT_TEMPLATE not in templates:
        return None, {}, (f"no chat template is used: there is none called 'default' among {sorted(templates)}",)
    for name, source in templates.items():
        if len(source.encode("utf-8", errors="replace")) > MAX_TEMPLATE_BYTES:
            raise CheckpointError(f"the chat template {name!r} has {len(source):,} characters", hint="get it again")
        try:
            compile_template(source, name=name)
        except BundleError as err:
            return None, {}, (f"no chat template is used: {err.message}",)
    paths = {name: _file(name, i) for i, name in enumerate(templates)}
    named = {name: token.content for name, token in special.named.items()}
    info = ChatInfo(templates=paths, special_tokens=named)
    return info, {paths[name]: source.encode("utf-8") for name, source in templates.items()}, ()


def _in_config(settings: Mapping[str, Any]) -> dict[str, str]:
    found = settings.get("chat_template")
    if found is None:
        return {}
    if isinstance(found, str):
        return {DEFAULT_TEMPLATE: found}
    if isinstance(found, list) and len(found) <= MAX_TEMPLATES:
        pairs = [(one.get("name"), one.get("template")) for one in found if isinstance(one, Mapping)]
        if len(pairs) == len(found) and all(isinstance(name, str) and isinstance(s, str) for name, s in pairs):
            return {str(name): str(source) for name, source in pairs}
    raise CheckpointError(
        f"tokenizer_config.json: chat_template is {shown(found)}",
        hint="must be a template, or a list of objects with 'name' and 'template'",
    )


def _file(name: str, number: int) -> str:
    if name == DEFAULT_TEMPLATE:
        return "chat_template.jinja"
    return f"chat_template.{name if _PLAIN_NAME.fullmatch(name) else number}.jinja"
