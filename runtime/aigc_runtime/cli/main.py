"""`aigc-run`: look at, prove, use and time a bundle on a device, with the standard library's argparse alone.

Exit codes are those of `aigc_runtime.errors`, listed in docs/cli.md.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from aigc_runtime._version import __version__
from aigc_runtime.cli.entry import end_program, failure_code, run_program
from aigc_runtime.errors import InputError

__all__ = ["build_parser", "main", "run"]

_SURROGATE = re.compile("[\ud800-\udfff]")


class _Parser(argparse.ArgumentParser):
    """Errors in our own form, and no abbreviated options, which would break as options are added."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise InputError(message, hint=f"see `{self.prog} -h`")


def build_parser(prog: str = "aigc-run") -> argparse.ArgumentParser:
    """The parser with its verbs."""
    parser = _Parser(
        prog=prog,
        description="Run an aigc-export bundle on this device.",
        epilog=f'example: {prog} generate out/lm --prompt "def main("',
    )
    parser.add_argument("--version", action="version", version=f"aigc-run {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    for verb, text, example in (
        ("info", "show what a bundle holds", "info out/lm"),
        ("verify", "prove the bundle's engine on this device against PyTorch's reference", "verify out/lm --json"),
        ("generate", "generate text or images", "generate out/unet --class 3 --count 4 -o threes.png"),
        ("bench", "time the bundle", "bench out/gan --runs 100"),
        ("doctor", "say what this device has, and whether a bundle runs on it", "doctor out/unet"),
    ):
        sub = verbs.add_parser(
            verb, help=text, description=text.capitalize() + ".", epilog=f"example: {prog} {example}"
        )
        # Only doctor has something to say without a bundle.
        sub.add_argument(
            "bundle",
            type=_path,
            metavar="BUNDLE",
            help="folder of the bundle",
            nargs="?" if verb == "doctor" else None,
        )
        sub.add_argument("--json", action="store_true", help="print one JSON document")
        sub.add_argument("--expect-manifest-sha256", metavar="HEX", help="refuse any other manifest")
        sub.add_argument(
            "--trusted-key",
            type=_path,
            action="append",
            metavar="FILE",
            help="refuse a bundle that this public key (PEM, or a folder of them) did not sign; may be repeated "
            "(default: AIGC_TRUSTED_KEYS)",
        )
        if verb not in {"info", "doctor"}:
            sub.add_argument("--threads", type=int, help="threads of the engine (default: every processor)")
        if verb == "bench":
            sub.add_argument("--runs", type=int, default=50, help="timed runs (default: 50)")
        if verb == "generate":
            _add_generate_options(sub)
    return parser


def _path(argument: str) -> str:
    """A path, never an empty one: `--trusted-key "$UNSET"` would mean the folder that the program runs in."""
    if not argument:
        raise argparse.ArgumentTypeError("a path is expected, and this one is empty")
    return argument


def _text(argument: str) -> str:
    """Text from the command line; bytes that the locale does not know (Python kept them apart) are read as UTF-8."""
    try:
        return os.fsencode(argument).decode("utf-8") if _SURROGATE.search(argument) else argument
    except UnicodeError as err:
        raise argparse.ArgumentTypeError(f"{argument!r} is not UTF-8: {err}") from err


def _add_generate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, help="of all random draws (default: 0)")
    text = parser.add_argument_group("text")
    text.add_argument("--prompt", type=_text, help="text to continue")
    text.add_argument("--prompt-file", type=_path, metavar="FILE", help="the same from a file, - for standard input")
    text.add_argument("--max-new-tokens", type=int, help="(default: 128)")
    text.add_argument("--temperature", type=float, help="0 is greedy (default: 0)")
    text.add_argument("--top-k", type=int, help="keep the k most likely tokens")
    text.add_argument("--top-p", type=float, help="keep the most likely tokens that reach this probability")
    text.add_argument("--repetition-penalty", type=float, help="above 1 discourages repetition")
    text.add_argument(
        "--stop", type=_text, action="append", metavar="TEXT", help="end before this text; may be repeated"
    )
    images = parser.add_argument_group("images")
    images.add_argument(
        "-o", "--output", type=_path, metavar="FILE", help="file to write: .png for a picture, .npy for numbers"
    )
    images.add_argument("--class", dest="classes", metavar="CLASS[,...]", help="names or numbers (default: each once)")
    images.add_argument("--count", type=int, help="images per class or embedding (default: 1)")
    images.add_argument("--scale", type=int, help="pixels per pixel in the picture (default: 4)")
    diffusion = parser.add_argument_group("diffusion")
    diffusion.add_argument("--steps", type=int, help="sampling steps")
    diffusion.add_argument("--sampler", help="ddim, ddpm, dpmpp_2m or euler")
    diffusion.add_argument("--eta", type=float, help="share of fresh noise in DDIM, 0 to 1")
    diffusion.add_argument("--guidance-scale", type=float, help="classifier-free guidance; 1 is none")
    diffusion.add_argument("--size", metavar="HxW", help="sides of an image, for an engine that takes several")
    diffusion.add_argument(
        "--embeddings",
        type=_path,
        metavar="FILE.npz",
        help="encoder_hidden_states [N, T, X], and null_encoder_hidden_states for guidance",
    )
    gan = parser.add_argument_group("GAN")
    gan.add_argument("--truncation", type=float, help="redraw latents beyond this magnitude")


def _verbs() -> dict[str, Callable[[argparse.Namespace], int]]:
    from aigc_runtime.cli import doctor, generate, verbs

    return {
        "info": verbs.info,
        "verify": verbs.verify,
        "generate": generate.generate,
        "bench": verbs.bench,
        "doctor": doctor.doctor,
    }


def _verb(parsed: argparse.Namespace) -> int:
    from aigc_runtime.bundle.bundle import retry_replaced

    verb = _verbs()[parsed.verb]
    # A bundle may be published to at any time; no verb has printed anything before it has read its bundle.
    return retry_replaced(lambda: verb(parsed))


def run(arguments: Sequence[str], *, prog: str = "aigc-run") -> int:
    """Run the command line and return its exit code; every failure is one message on standard error."""
    try:
        parsed = build_parser(prog).parse_args(list(arguments))
        return _verb(parsed)
    except SystemExit as done:  # argparse has printed the help or the version
        return int(done.code or 0)
    except (Exception, KeyboardInterrupt) as err:  # noqa: BLE001 - whatever it is, it ends as a message and a code
        return failure_code(err)


def main() -> None:
    """Entry point of `aigc-run`."""
    end_program(run_program(run, sys.argv[1:]))
