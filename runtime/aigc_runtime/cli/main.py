"""`aigc-run`: look at, prove, use and time a bundle on a device, with the standard library's argparse alone.

Exit codes are those of `aigc_runtime.errors`, listed in docs/cli.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from aigc_runtime._version import __version__
from aigc_runtime.cli.entry import LOG_HELP, VERBOSE_HELP, end_program, failure_code, run_program
from aigc_runtime.cli.threads import THREADS_HELP, threads_argument
from aigc_runtime.errors import InputError
from aigc_runtime.io.arguments import path_argument

__all__ = ["Parser", "build_parser", "main", "run"]

_LATE = ("generate", "chat")
"""Verbs whose options are those of the kinds of pipelines."""


class Parser(argparse.ArgumentParser):
    """Errors in our own form, and no abbreviated options, which would break as options are added.

    Attributes:
        late: adds further options once this parser is used, from modules that the other verbs need not import.
    """

    late: Callable[[argparse.ArgumentParser], None] | None = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, the late options among the others."""
        if self.late is not None:
            self.late(self)
            self.late = None
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print and exit with."""
        raise InputError(message, hint=f"see `{self.prog} -h`")


def build_parser(prog: str = "aigc-run") -> argparse.ArgumentParser:
    """The parser with its verbs."""
    parser = Parser(
        prog=prog,
        description="Run an aigc-export bundle on this device.",
        epilog=f'example: {prog} generate out/lm --prompt "def main("',
    )
    parser.add_argument("--version", action="version", version=f"aigc-run {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    for verb, text, example in (
        ("info", "show what a bundle holds", "info out/lm"),
        ("verify", "prove the bundle's engine on this device against PyTorch's reference", "verify out/lm --json"),
        ("generate", "generate text or images", "generate out/unet --class 3 --count 4 -o threes.png"),
        ("chat", "talk with a language model", 'chat out/smol --system "Answer in one sentence."'),
        ("bench", "time the bundle", "bench out/gan --runs 100"),
        ("doctor", "say what this device has, and whether a bundle runs on it", "doctor out/unet"),
    ):
        sub = verbs.add_parser(
            verb, help=text, description=text.capitalize() + ".", epilog=f"example: {prog} {example}"
        )
        # Only doctor has something to say without a bundle.
        sub.add_argument(
            "bundle",
            type=path_argument,
            metavar="BUNDLE",
            help="folder of the bundle",
            nargs="?" if verb == "doctor" else None,
        )
        sub.add_argument("--json", action="store_true", help="print one JSON document")
        sub.add_argument("--verbose", action="store_true", help=VERBOSE_HELP)
        sub.add_argument("--log", type=path_argument, metavar="FILE", help=LOG_HELP)
        sub.add_argument("--expect-manifest-sha256", metavar="HEX", help="refuse any other manifest")
        sub.add_argument(
            "--trusted-key",
            type=path_argument,
            action="append",
            metavar="FILE",
            help="refuse a bundle that this public key (PEM, or a folder of them) did not sign; may be repeated "
            "(default: AIGC_TRUSTED_KEYS)",
        )
        if verb not in {"info", "doctor"}:
            sub.add_argument("--threads", type=threads_argument, metavar="N", help=THREADS_HELP)
        if verb == "generate":
            sub.add_argument(
                "--low-memory", action="store_true", help="load each engine when it runs, close it when it is done"
            )
        if verb == "bench":
            sub.add_argument("--runs", type=int, default=50, help="timed runs (default: 50)")
        if verb in _LATE:
            sub.late = partial(_add_late_options, verb=verb)
    return parser


def _add_late_options(parser: argparse.ArgumentParser, *, verb: str) -> None:
    from aigc_runtime.cli.generate import add_options

    add_options(parser, verb=verb)


def _verbs() -> dict[str, Callable[[argparse.Namespace], int]]:
    from aigc_runtime.cli import doctor, generate, verbs

    return {
        "info": verbs.info,
        "verify": verbs.verify,
        "generate": generate.generate,
        "chat": generate.chat,
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
        parser = build_parser(prog)
        parsed, more = parser.parse_known_args(list(arguments))
        parsed.more = more
        if more and parsed.verb not in _LATE:
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        if parsed.log is None and not parsed.verbose:
            return _verb(parsed)
        from aigc_runtime.cli.run_log import run_logged

        return run_logged(
            lambda: _verb(parsed),
            program=prog,
            arguments=arguments,
            verbose=parsed.verbose,
            path=parsed.log,
            json_on_stdout=parsed.json,
        )
    except SystemExit as done:  # argparse has printed the help or the version
        return int(done.code or 0)
    except (Exception, KeyboardInterrupt) as err:  # noqa: BLE001 - whatever it is, it ends as a message and a code
        return failure_code(err, program=prog, arguments=arguments)


def main() -> None:
    """Entry point of `aigc-run`."""
    end_program(run_program(run, sys.argv[1:]))
