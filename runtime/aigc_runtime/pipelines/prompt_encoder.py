"""What a UNet sees of prompts: the states of a text encoder, or of two side by side, and the embedding of a text.

Shapes: T tokens, X numbers of a token, P numbers of a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.arguments import require_tensors
from aigc_runtime.pipelines.denoiser import CONTEXT
from aigc_runtime.pipelines.kind import Roles
from aigc_runtime.pipelines.prompt_tokens import prompt_tokens
from aigc_runtime.pipelines.text_to_image_settings import INPUT_IDS, TEXT_EMBEDS, TextToImageSettings
from aigc_runtime.pipelines.vae import run_rows

__all__ = ["PicturePrompt", "PromptEncoder", "Seen"]

PicturePrompt = str | tuple[str, str]
"""What all text encoders read, or what the first reads and what the second does."""

Seen = Mapping[str, Array]
"""What the UNet sees of one prompt, by the name of its input: [T, X], and [P] where it takes one."""


class PromptEncoder:
    """Encodes prompts.

    Args:
        program: with the engines of the text encoders, and their tokenizers.
        settings: of the pipeline.
        roles: which engine is which.
        unet: its session.

    Raises:
        ConfigError: a UNet that takes something else than the text encoders give.
    """

    def __init__(self, program: OpenProgram, settings: TextToImageSettings, roles: Roles, unet: Session) -> None:
        self._program, self._length = program, settings.prompt_tokens
        self._engines = {role: roles[role] for role in settings.prompt_infos}
        for session in self._sessions().values():
            require_tensors(
                session,
                inputs={INPUT_IDS: ("int64", (None, self._length))},
                outputs={CONTEXT: ("float32", (None, None, None))},
            )
        self._names = self._check(unet)
        self.tokens = prompt_tokens(settings, program.assets)

    def _sessions(self) -> dict[str, Session]:
        return {role: self._program.session(name) for role, name in self._engines.items()}

    def _check(self, unet: Session) -> tuple[str, ...]:
        """The names of the inputs of a UNet that prompts are seen by."""
        taken = {spec.name: spec.shape[-1] for spec in unet.interface.inputs}
        outputs = [{spec.name: spec.shape[-1] for spec in s.interface.outputs} for s in self._sessions().values()]
        given = {CONTEXT: [output[CONTEXT] for output in outputs]}
        if TEXT_EMBEDS in taken:
            if TEXT_EMBEDS not in outputs[-1]:
                raise ConfigError(
                    f"the UNet takes {TEXT_EMBEDS!r}, which no text encoder gives",
                    hint="the engines do not belong together",
                )
            given[TEXT_EMBEDS] = [outputs[-1][TEXT_EMBEDS]]
        for name, sizes in given.items():
            known = [size for size in sizes if isinstance(size, int)]
            wanted = taken[name]
            if len(known) == len(sizes) and isinstance(wanted, int) and sum(known) != wanted:
                what = "a token" if name == CONTEXT else "a text"
                raise ConfigError(
                    f"the text encoder gives {' + '.join(map(str, known))} numbers for {what}, the UNet takes {wanted}",
                    hint="the engines do not belong together",
                )
        return tuple(given)

    def notes(self, prompts: Sequence[PicturePrompt]) -> tuple[str, ...]:
        """What is not seen of prompts, a sentence for each that is too long."""
        told = []
        for prompt in dict.fromkeys(prompts):
            for place, tokens in enumerate(self.tokens.values()):
                if cut := tokens.cut_off(_read_by(place, prompt)):
                    told.append(f"a prompt has more than {self._length} tokens, not seen: {cut!r}")
        return tuple(dict.fromkeys(told))

    def encode(self, prompts: Sequence[PicturePrompt]) -> dict[PicturePrompt, Seen]:
        """What the UNet sees of each prompt: a text goes through a text encoder once, which is released then.

        Raises:
            InputError: a text that a tokenizer does not take.
            EngineError: an engine failed.
        """
        different = list(dict.fromkeys(prompts))
        states: list[Array] = []
        found: dict[str, Array] = {}
        for place, (role, session) in enumerate(self._sessions().items()):
            read = [_read_by(place, prompt) for prompt in different]
            texts = list(dict.fromkeys(read))
            rows = [texts.index(text) for text in read]
            given = run_rows(session, {INPUT_IDS: self.tokens[role].encode(texts)})
            found = {name: array[rows] for name, array in given.items()}
            states.append(found[CONTEXT])
            self._program.release(self._engines[role])
        # The embedding of a text is the last encoder's, as in diffusers.
        found = {**found, CONTEXT: np.concatenate(states, axis=-1)}
        return {prompt: {name: found[name][i] for name in self._names} for i, prompt in enumerate(different)}


def _read_by(place: int, prompt: PicturePrompt) -> str:
    """The text that a text encoder reads.

    Args:
        place: of the encoder among the others.
        prompt: for all of them.
    """
    return prompt if isinstance(prompt, str) else prompt[place]
