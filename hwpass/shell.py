"""Where the command line meets the shell: errors as one line, standard streams, files, a status line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.console import Console

from hwpass.errors import HwpassError, InputError, UsageError

if TYPE_CHECKING:
    from hwpass.job import Result
    from hwpass.plan import Plan

#: Set to anything, unexpected errors keep their traceback.
DEBUG = "HWPASS_DEBUG"


class ShellGroup(click.Group):
    """Turns every error into one line on standard error and the contract's exit status."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run; click's own complaints (a misspelt option, say) become one line as well."""
        inner: Callable[..., Any] = super().main
        if not extra.pop("standalone_mode", True):
            return inner(*args, standalone_mode=False, **extra)
        try:
            status = inner(*args, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            hint = f"; see `{context.command_path} --help`" if context is not None else ""
            _say(f"{error.format_message().rstrip('.')}{hint}")
            sys.exit(error.exit_code)
        except click.Abort:
            _say("interrupted, nothing was written")
            sys.exit(130)
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except HwpassError as error:
            fail(error)
        except KeyboardInterrupt:
            _say("interrupted, nothing was written")
            ctx.exit(130)
        except BrokenPipeError:
            # The reader went away: not an error of ours. What is still buffered must not be tried again.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except MemoryError:
            fail(InputError("out of memory; close other programs, or use a machine with more"))
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if os.environ.get(DEBUG):
                raise
            fail(HwpassError(f"unexpected {_described(error)}; please report it ({DEBUG}=1 shows the traceback)"))


def _described(error: Exception) -> str:
    """The error, and the innermost place of ours that it came through."""
    place, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if name.startswith("hwpass."):
            place = f" in {name} line {trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__}{place}: {str(error)[:200]}"


def _say(text: str) -> None:
    # Nobody may be reading any more.
    with suppress(BrokenPipeError):
        click.echo(f"hwpass: {' '.join(text.split())}", err=True)


def fail(error: HwpassError) -> NoReturn:
    """Print the error's one line and exit with its status."""
    _say(str(error))
    sys.exit(error.exit_code)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Rich would end the program with status 1.
        raise BrokenPipeError


def console(*taken: str | None) -> Console:
    """Standard output, or standard error when something else goes there (`-`)."""
    return _Console(stderr="-" in taken, highlight=False, soft_wrap=True)


def source(*models: str) -> list[str | bytes]:
    """What to load each model from: its path, or the bytes of standard input for `-`."""
    return [_standard_input() if model == "-" else model for model in models]


def _standard_input() -> bytes:
    data = sys.stdin.buffer.read()
    if not data:
        raise InputError("standard input: the file is empty")
    return data


def read_plan(path: str) -> Plan:
    """The plan in a file or on standard input. Raises InputError."""
    from hwpass.plan import Plan

    return Plan.read(path)


def check_outputs(**paths: str | None) -> None:
    """Find out before the work that a file cannot be written, or that two would be the same."""
    from hwpass.files import check_writable

    seen: dict[str, str] = {}
    for option, path in paths.items():
        if path is None:
            continue
        place = path if path == "-" else str(Path(path).absolute())
        if place in seen:
            raise UsageError(f"--{option} and --{seen[place]} both go to {path}; give each a place of its own")
        seen[place] = option
        if path != "-":
            check_writable(Path(path))
        elif option == "output" and sys.stdout.isatty():
            raise UsageError("--output -: standard output is a terminal; name a file, or send it on by a pipe")


def write_model(result: Result, output: str) -> None:
    """Write a result's model to a file, whole or not at all, or to standard output; proved again as it is written."""
    if output != "-":
        result.save(output)
        return
    with TemporaryDirectory(prefix="hwpass-", ignore_cleanup_errors=True) as folder:
        draft = Path(folder) / "model.onnx"
        result.save(draft)
        with open(draft, "rb") as stream:
            copyfileobj(stream, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def write_text(path: str, text: str) -> None:
    """Write a text to a file, whole or not at all, or to standard output."""
    from hwpass.files import write_text

    if path == "-":
        click.echo(text, nl=False)
    else:
        write_text(path, text)


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """A status line on a terminal's standard error; silence elsewhere."""
    screen = Console(stderr=True)
    if not screen.is_terminal:
        yield lambda text: None
        return
    with screen.status("starting") as status:
        yield lambda text: status.update(text)
