"""What `generate` of a pipeline from text to pictures was asked for, checked before any engine runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from aigc_runtime.core.interface import Interface
from aigc_runtime.core.ranges import MAX_GUIDANCE_SCALE
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.generation.rng import check_seed
from aigc_runtime.generation.tokenizers.base import utf8
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.arguments import check_count, check_number
from aigc_runtime.pipelines.denoiser import SAMPLE
from aigc_runtime.pipelines.limits import check_image_count, check_numbers
from aigc_runtime.pipelines.picture_inputs import GivenPicture, check_given
from aigc_runtime.pipelines.prompt_encoder import PicturePrompt
from aigc_runtime.pipelines.sampling import Sampling, plan_sampling
from aigc_runtime.pipelines.text_to_image_settings import TIME_IDS, VAE_ENCODER, TextToImageSettings
from aigc_runtime.pipelines.vae import check_tile

__all__ = ["MAX_SIDE", "OUTPUTS", "SIZES", "Output", "PictureRequest", "check_output", "make_request", "picture_size"]

Output = Literal["pictures", "images", "latents"]
OUTPUTS = ("pictures", "images", "latents")
"""Forms of a result; see `TextToImagePipeline.generate`."""
MAX_PROMPT = 100_000
"""Characters of a prompt, of which a text encoder sees some hundreds."""
SIZES = 6
"""Numbers that a UNet sees of sizes: see `text_to_image_settings`."""
MAX_SIDE = 2**16
"""Of a size that a UNet sees."""
_OF_SIZES: Mapping[str, tuple[int, str, tuple[int, int]]] = {"crop": (0, "(top, left)", (0, 0))}
"""Argument -> lowest number, meaning and default of a pair that is no size."""


@dataclass(frozen=True, kw_only=True)
class PictureRequest:
    """Pictures that are asked for.

    Attributes:
        prompts: one for each picture: what both text encoders read, or what each of them does.
        negatives: likewise; None without guidance, or where it leads away from zeros.
        zero_negative: whether guidance leads away from zeros.
        seeds: likewise.
        size: (H, W) in pixels.
        latent_shape: (C, h, w).
        scale: of the guidance.
        rescale: of the guided output.
        sampling: how it is sampled.
        sizes: that the UNet sees beside the time; None for one that sees none.
        given: the picture that they begin with.
        takes_picture: whether the UNet takes it beside the sample.
        tile: side of the tiles that latents are decoded in; None for none.
        output: the form of the result.
    """

    prompts: tuple[PicturePrompt, ...]
    negatives: tuple[PicturePrompt, ...] | None
    zero_negative: bool
    seeds: tuple[int, ...]
    size: tuple[int, int]
    latent_shape: tuple[int, int, int]
    scale: float
    rescale: float
    sampling: Sampling
    sizes: tuple[int, ...] | None
    given: GivenPicture | None
    takes_picture: bool
    tile: int | None
    output: str

    @property
    def count(self) -> int:
        """The number of pictures."""
        return len(self.prompts)

    @property
    def texts(self) -> tuple[PicturePrompt, ...]:
        """All of them, prompts first."""
        return self.prompts + (self.negatives or ())

    @property
    def guided(self) -> bool:
        """Whether the UNet runs a second time, for what guidance leads away from."""
        return self.zero_negative or self.negatives is not None

    @property
    def starts_from_noise(self) -> bool:
        """Whether nothing of a picture is in the first sample: a mask at full strength leaves none."""
        return self.given is None or (self.given.mask is not None and self.given.strength == 1)

    @property
    def mixes_picture(self) -> bool:
        """Whether latents of the whole picture are needed: in the first sample, or to be put back at every step."""
        return self.given is not None and not (self.takes_picture and self.starts_from_noise)


def make_request(
    settings: TextToImageSettings,
    unet: Interface,
    decoder: Session,
    *,
    encodes_pictures: bool,
    distilled: bool,
    prompt: str | Sequence[str],
    prompt_2: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    negative_2: str | Sequence[str] | None = None,
    count: int = 1,
    seed: int | Sequence[int] = 0,
    size: tuple[int, int] | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    eta: float | None = None,
    guidance_scale: float | None = None,
    guidance_rescale: float = 0.0,
    image: Array | None = None,
    mask: Array | None = None,
    strength: float | None = None,
    original_size: tuple[int, int] | None = None,
    crop: tuple[int, int] | None = None,
    target_size: tuple[int, int] | None = None,
    tile: int | None = None,
    output: str = "pictures",
) -> PictureRequest:
    """Check the arguments of `generate`; see there.

    Raises:
        InputError: says which argument, and what is allowed.
    """
    prompts, copies = _texts("prompt", prompt), check_count("count", count)
    check_image_count(len(prompts) * copies)
    scale = settings.default_guidance_scale if guidance_scale is None else guidance_scale
    scale = check_number("guidance_scale", scale, 0.0, MAX_GUIDANCE_SCALE)
    guided = scale > 1 and not distilled
    zero_negative = guided and negative is None and settings.zero_negative
    negatives = None
    if not zero_negative:
        negatives = _negatives("" if negative is None else negative, len(prompts), guided=guided, distilled=distilled)
    if negatives is None and negative_2 is not None and any(_texts("negative_2", negative_2)):
        raise InputError(
            f"negative_2 is {shown(negative_2)}, and there is no negative that it stands beside",
            hint="give negative, too" if zero_negative else "leave it out, or set a guidance_scale above 1",
        )
    both = _both("prompt_2", prompt_2, prompts, settings)
    both_negatives = None if negatives is None else _both("negative_2", negative_2, negatives, settings)
    given = check_given(image, mask, strength)
    _check_picture_use(settings, given, encodes_pictures=encodes_pictures)
    height, width = picture_size(settings, unet, size, given)
    f = settings.latent_scale
    latent = height // f, width // f
    pictures = len(prompts) * copies
    check_numbers("the result", (pictures, 3, height, width), hint="ask for fewer pictures, or smaller ones")
    return PictureRequest(
        prompts=tuple(text for text in both for _ in range(copies)),
        negatives=None if both_negatives is None else tuple(text for text in both_negatives for _ in range(copies)),
        zero_negative=zero_negative,
        seeds=_seeds(seed, pictures),
        size=(height, width),
        latent_shape=(settings.latent_channels, *latent),
        scale=scale,
        rescale=check_number("guidance_rescale", guidance_rescale, 0.0, 1.0),
        sampling=plan_sampling(
            settings,
            steps=steps,
            sampler=sampler,
            eta=eta,
            skip=lambda whole: 0 if given is None else _skipped(whole, given.strength),
        ),
        sizes=_sizes(unet, (height, width), original_size=original_size, crop=crop, target_size=target_size),
        given=given,
        takes_picture=settings.takes_picture,
        tile=check_tile(tile, decoder, latent),
        output=check_output(output),
    )


def check_output(output: object) -> str:
    """A form of a result.

    Raises:
        InputError: there is none of that name.
    """
    if output not in OUTPUTS:
        raise InputError(f"output is {shown(output)}", hint=f"must be one of {', '.join(OUTPUTS)}")
    return str(output)


def picture_size(
    settings: TextToImageSettings, unet: Interface, size: tuple[int, int] | None, given: GivenPicture | None = None
) -> tuple[int, int]:
    """The size (H, W) of pictures.

    Args:
        settings: of the model.
        unet: of its engine.
        size: that is asked for; None takes that of the picture, or the model's own.
        given: the picture that they begin with.

    Raises:
        InputError: a size that the engine does not take, or another one than the picture's.
    """
    if size is None:
        size = settings.size if given is None else given.size
    if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2:
        raise InputError(f"size is {shown(size)}", hint="must be (height, width)")
    height, width = check_count("height", size[0]), check_count("width", size[1])
    f, spec = settings.latent_scale, unet.input(SAMPLE)
    assert spec is not None
    for name, side, taken in (("height", height, spec.shape[2]), ("width", width, spec.shape[3])):
        dim = None if isinstance(taken, int) else unet.dim(taken)
        if isinstance(taken, int):
            if side != f * taken:
                raise InputError(
                    f"{name} is {shown(side)}", hint=f"this engine makes pictures of {name} {f * taken} only"
                )
        elif dim is not None:
            step = f * dim.multiple_of
            if side % step or side < f * dim.min or (dim.max is not None and side > f * dim.max):
                bound = f"at least {f * dim.min}" if dim.max is None else f"{f * dim.min} to {f * dim.max}"
                raise InputError(f"{name} is {shown(side)}", hint=f"must be {bound}, a multiple of {step}")
    if given is not None and given.size != (height, width):
        raise InputError(
            f"size is {height} x {width}, the image has {given.size[0]} x {given.size[1]}",
            hint="leave the size out, or make the image as large",
        )
    return height, width


def _sizes(unet: Interface, size: tuple[int, int], **asked: tuple[int, int] | None) -> tuple[int, ...] | None:
    """The sizes that the UNet sees beside the time, those of the picture where a request does not say them."""
    if unet.input(TIME_IDS) is None:
        for name, value in asked.items():
            if value is not None:
                raise InputError(f"{name} is {shown(value)}, and this model sees no sizes", hint="leave it out")
        return None
    found: list[int] = []
    for name, value in asked.items():
        least, meant, default = _OF_SIZES.get(name, (1, "(height, width)", size))
        pair = default if value is None else value
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != len(size):
            raise InputError(f"{name} is {shown(pair)}", hint=f"must be {meant}")
        if any(type(side) is not int or not least <= side <= MAX_SIDE for side in pair):
            raise InputError(
                f"{name} is {shown(pair)}", hint=f"must be {meant}, whole numbers from {least} to {MAX_SIDE:,}"
            )
        found += pair
    return tuple(found)


def _skipped(steps: int, strength: float) -> int:
    """Steps that are left out at the start, so many as diffusers leaves out."""
    taken = min(int(steps * strength), steps)
    if not taken:
        raise InputError(
            f"strength is {strength:g}, which is no step of {steps}",
            hint=f"use at least {1 / steps:.3g}, or more steps",
        )
    return steps - taken


def _check_picture_use(settings: TextToImageSettings, given: GivenPicture | None, *, encodes_pictures: bool) -> None:
    if settings.takes_picture and (given is None or given.mask is None):
        raise InputError(
            "this model paints into a picture, and " + ("no image" if given is None else "no mask") + " was given",
            hint="give an image, and a mask that is white where it is painted anew",
        )
    if given is not None and not encodes_pictures:
        raise InputError(
            "an image was given, and this bundle makes pictures from text alone",
            hint=f"export the model with its {VAE_ENCODER}",
        )


def _texts(name: str, value: object) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or isinstance(texts, bytes) or not texts:
        raise InputError(f"{name} is {shown(value)}", hint="must be a text, or a list of texts")
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"{name} holds {shown(text)}", hint="must be a text, or a list of texts")
        if len(text) > MAX_PROMPT:
            raise InputError(f"a {name} has {len(text):,} characters", hint=f"at most {MAX_PROMPT:,} are allowed")
        utf8(text)
    return tuple(texts)


def _negatives(value: object, prompts: int, *, guided: bool, distilled: bool) -> tuple[str, ...] | None:
    texts = _texts("negative", value)
    if not guided:
        if any(texts):
            why = "a model that guidance was distilled into takes none" if distilled else "there is no guidance"
            raise InputError(
                f"negative is {shown(texts[0])}, and {why}",
                hint="leave it out" if distilled else "leave it out, or set a guidance_scale above 1",
            )
        return None
    if len(texts) not in (1, prompts):
        raise InputError(f"{len(texts)} negative texts for {prompts} prompts", hint="give 1, or one for each prompt")
    return texts * prompts if len(texts) == 1 else texts


def _both(name: str, value: object, texts: tuple[str, ...], settings: TextToImageSettings) -> tuple[PicturePrompt, ...]:
    """Texts with what the second text encoder reads in their place; an empty one takes no place, as in diffusers."""
    if value is None:
        return texts
    if settings.second is None:
        raise InputError(f"{name} is {shown(value)}, and this model has one text encoder", hint="leave it out")
    others = _texts(name, value)
    if len(others) not in (1, len(texts)):
        raise InputError(
            f"{name} has {len(others)} texts for {len(texts)} prompts", hint="give 1, or one for each prompt"
        )
    others = others * len(texts) if len(others) == 1 else others
    return tuple((text, other) if other else text for text, other in zip(texts, others, strict=True))


def _seeds(value: object, pictures: int) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        first = check_seed(value)
        return tuple((first + i) % 2**64 for i in range(pictures))
    if len(value) != pictures:
        raise InputError(f"{len(value)} seeds for {pictures} pictures", hint="give one seed, or one for each picture")
    return tuple(check_seed(seed) for seed in value)
