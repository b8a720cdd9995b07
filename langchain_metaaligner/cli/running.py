"""Runs a command: what it raises becomes one line on stderr and an exit code."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Annotated, Any

import typer

from langchain_metaaligner.cli.exit_codes import ExitCode
from langchain_metaaligner.errors import GateError, MetaAlignerError

PROGRAM = "metaaligner"

# Older versions of Typer take their errors from the package click, newer ones have their own.
_USAGE_ERROR: Any = typer.BadParameter.__base__
_COMPLETE = f"_{PROGRAM.upper()}_COMPLETE"
_DEBUG = "METAALIGNER_DEBUG"
_PACKAGE = "langchain_metaaligner"
# Options of the commands that Python's messages name, besides those of an aligner.
_OWN = ("columns", "kind", "prefix", "resume", "fail_under", "out", "human_pairs", "second_judge")
_VALUE = r"""(?:\.\.\.|(?P<mark>['"])(?P<quoted>[^'"]*)(?P=mark)|(?P<bare>[\w.+-]*\w))?"""


class Interrupted(Exception):  # noqa: N818 - what happened, as KeyboardInterrupt
    """Ctrl-C, with a sentence about what to do to go on."""


def _debugged(given: bool) -> None:
    if given:
        os.environ[_DEBUG] = "1"
        logging.getLogger(_PACKAGE).setLevel(logging.DEBUG)


Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        callback=_debugged,
        help=f"Show the log, and tracebacks of errors; as the environment variable {_DEBUG}=1.",
    ),
]
"""The type of the option `debug`, which every command has."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
"""The type of the option `json`."""


@contextmanager
def resumable(advice: str) -> Iterator[None]:
    """Tell what to do after Ctrl-C.

    Args:
        advice: A sentence.

    Raises:
        Interrupted: Ctrl-C was pressed.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(advice) from None


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        app: The commands.
        arguments: The command line without the program; the process's own by default.

    Returns:
        The exit code.
    """
    command = typer.main.get_command(app)
    if _COMPLETE in os.environ:
        command.main(prog_name=PROGRAM)  # answers the shell and ends the process
    own_process = arguments is None
    if own_process:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # half a character is no reason to fail
                stream.reconfigure(errors="backslashreplace")
    handler = _Stderr()
    handler.setFormatter(_Lines())
    logger = logging.getLogger(_PACKAGE)
    before, debug = logger.level, os.environ.get(_DEBUG)
    logger.addHandler(handler)
    try:
        code = _run(command, sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        if own_process:  # or Python would complain when it flushes at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.PIPE_CLOSED
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        if debug is None:
            os.environ.pop(_DEBUG, None)
    if own_process:
        # What is still going on ends at a second Ctrl-C, without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return code


def _run(command: Any, arguments: list[str]) -> int:
    # `command.main` would print usage errors over several lines, and hide what was interrupted.
    try:
        with command.make_context(PROGRAM, arguments) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    except _USAGE_ERROR as error:
        where = error.ctx.command_path if error.ctx else PROGRAM
        report(f"{_sentence(error.format_message())} See {where} --help.")
        return ExitCode.USAGE
    except GateError as error:
        report(_told(error))
        return ExitCode.GATE_MISSED
    except (KeyboardInterrupt, typer.Abort):
        _say("\ninterrupted")
        return ExitCode.INTERRUPTED
    except Interrupted as interrupted:
        _say(f"\ninterrupted. {interrupted}")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        raise
    except (MetaAlignerError, OSError) as error:
        report(_told(error))
        return ExitCode.FAILED
    except ModuleNotFoundError as error:
        report(_missing(error))
        return ExitCode.FAILED
    except Exception as error:  # noqa: BLE001 - a traceback is no message for a terminal
        advice = "" if os.environ.get(_DEBUG) else " Repeat the command with --debug to see where."
        report(f"{_sentence(f'{type(error).__name__}: {_told(error)}')}{advice}")
        return ExitCode.FAILED
    return ExitCode.DONE


def report(message: str) -> None:
    """Print an error as one line on stderr, and its traceback if `--debug` was given.

    Args:
        message: What was wrong, and what to do.
    """
    if os.environ.get(_DEBUG) and sys.exc_info()[0] is not None:
        _say(traceback.format_exc().rstrip())
    _say(f"error: {' '.join(message.split())}")


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _told(error: BaseException) -> str:
    """An error's message in the words of the command line."""
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return _sentence(f"{place}{error.strerror}")
    return as_flags(str(error) or type(error).__name__)


def _missing(error: ModuleNotFoundError) -> str:
    from langchain_metaaligner.cli.extras import extra_with, pip_line

    extra = extra_with(error.name or "")
    advice = pip_line(extra) if extra else f"pip install {error.name}"
    return f"This needs the package {error.name}, which is not installed. Install it: {advice}"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def as_flags(message: str) -> str:
    """Write the options that a message names as flags: `dtype='bfloat16'` as `--dtype bfloat16`.

    Args:
        message: A message for people who write Python.

    Returns:
        The same for people at a terminal.
    """
    from langchain_metaaligner.options import AlignerOptions

    names = "|".join(sorted({*AlignerOptions.model_fields, *_OWN}, key=len, reverse=True))
    message = re.sub(r"(?<![\w.-])(\w+)=\{(?=['\"])([^{}]*)\}", _as_pairs, message)
    return re.sub(rf"(?<![\w.?&-])(?P<name>{names})={_VALUE}", _as_flag, message)


def _as_flag(found: re.Match[str]) -> str:
    name = found["name"].replace("_", "-")
    value = found["quoted"] or found["bare"] or ""
    if value in ("True", "False"):
        return f"--{'no-' if value == 'False' else ''}{name}"
    return f"--{name} {value}".rstrip()


def _as_pairs(found: re.Match[str]) -> str:
    """A mapping as the flag that is repeated for each of its pairs."""
    flag = f"--{found[1].replace('_', '-')}"
    pairs = (pair.replace("'", "").replace('"', "").split(":", 1) for pair in found[2].split(","))
    return " ".join(f"{flag} {'='.join(part.strip() for part in pair)}" for pair in pairs)


class _Stderr(logging.StreamHandler[Any]):
    """Writes to what is stderr at the moment: lines must not get into a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Lines(logging.Formatter):
    """Log records as they are read at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {as_flags(record.getMessage())}"
