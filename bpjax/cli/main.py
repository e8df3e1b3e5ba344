"""The program ``bpjax``: finds the command, parses its options, and turns errors into one line and an exit status."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from bpjax.cli import COMMANDS
from bpjax.errors import BpjaxError

HELP = """\
usage: bpjax COMMAND [OPTIONS]

Behler-Parrinello neural-network potentials in JAX.

commands:
{commands}

`bpjax COMMAND --help` explains a command and its options, `bpjax --version` shows the version.
For a first look, run `bpjax quickstart`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      argv: the arguments without the name of the program; default those of the process.

    Returns: the exit status; see `bpjax.cli`.
    """
    _open_standard_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _plain_warnings():
            status = _dispatch(arguments)
            sys.stdout.flush()
        return status
    except KeyboardInterrupt as error:
        return _fail(130, f"bpjax: interrupted: {error}" if str(error) else "bpjax: interrupted", trace=False)
    except BrokenPipeError:  # the reader of our output, say `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit would fail again
        return 1
    except (BpjaxError, ValueError, OSError) as error:
        return _fail(2, f"bpjax: error: {_os_text(error) if isinstance(error, OSError) else error}")
    except Exception as error:  # whatever remains is a defect of ours: one line and a hint instead of a page
        hint = "" if os.environ.get("BPJAX_DEBUG") == "1" else " (set BPJAX_DEBUG=1 to see where)"
        return _fail(1, f"bpjax: error: internal: {type(error).__name__}: {error}{hint}")


def _open_standard_streams() -> None:
    """Where a process has no output or error (daemons, ``>&-``), what is said goes nowhere, and no file takes their place."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print(HELP.format(commands="\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())))
        return 0
    if arguments[0] in ("--version", "-V"):
        print(f"bpjax {_version()}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise BpjaxError(f"unknown command {name!r}; {hint}the commands are {', '.join(COMMANDS)}")
    _keep_programs_apart()
    command = importlib.import_module(f"bpjax.cli.{name}")
    options = _parse(name, command.Options, arguments[1:])
    return 0 if options is None else command.run(options) or 0


def _keep_programs_apart() -> None:
    """Gives each kind of processor its own part of the folder of compiled programs that JAX is asked to keep, if it is.

    Programs of another processor end in illegal instructions. XLA compares preferences of the compiler with what the processor
    can do, finds them lacking, and prints pages about it for programs of this very processor (jax#38445, xla#44565): it is told
    to speak of fatal errors only. Others are raised as exceptions anyway.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not folder or "jax" in sys.modules:  # it has read these variables
        return
    from bpjax.machine import processor

    if (
        os.path.basename(os.path.normpath(folder)) != processor()
    ):  # an address, such as gs://..., is joined like a folder
        os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(os.path.expanduser(folder), processor())
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _parse(name: str, options: type, arguments: list[str]) -> Any:
    """The options of a command, or None when only help was asked for.

    Raises:
      BpjaxError: options that cannot be used.
    """
    import tyro

    text = io.StringIO()
    try:
        with contextlib.redirect_stderr(text):
            return tyro.cli(
                options,
                prog=f"bpjax {name}",
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
            )
    except SystemExit as error:
        if not error.code:
            return None
        raise BpjaxError(f"{_unboxed(text.getvalue())}; see `bpjax {name} --help`") from None


def _unboxed(text: str) -> str:
    """What tyro says in a frame of several lines, or where there is no UTF-8 between rules, as one line."""
    sections: list[list[str]] = [[]]
    for line in text.splitlines():
        inside = re.sub("^[│|]|[│|]$", "", line).rstrip()
        if inside.startswith(("╭", "╰")):
            continue
        if re.fullmatch("[─-]{3,}", inside.strip()):
            sections.append([])
        elif not inside.startswith(" " * 8):  # that deep are the help texts of options
            sections[-1].append(inside)
    if not text.startswith("╭"):
        sections = sections[1:]  # the first is the title
    # Further sections repeat the help, except for a guess what was meant.
    kept = sections[:1] + [section for section in sections[1:2] if "you meant" in " ".join(section)]
    joined = "; ".join(" ".join(" ".join(section).split()).removesuffix(".") for section in kept)
    return joined.removeprefix("Error parsing Options: ") or "wrong options"


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("bpjax")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _os_text(error: OSError) -> str:
    """Name of the file and what is wrong with it, without the error number."""
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{os.fsdecode(error.filename)}: {error.strerror}"


def _fail(status: int, text: str, trace: bool = True) -> int:
    """Shows an error, in one line, and returns the exit status."""
    if trace and os.environ.get("BPJAX_DEBUG") == "1":
        traceback.print_exc()
    print(" ".join(text.split()), file=sys.stderr)
    return status


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Shows warnings as one line for people who do not know the source."""

    def show(
        message: Warning | str, category: Any, filename: str, line: int, file: Any = None, code: Any = None
    ) -> None:
        print(" ".join(f"bpjax: warning: {message}".split()), file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


if __name__ == "__main__":
    sys.exit(main())
