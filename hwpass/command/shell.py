"""Where the command line meets the shell: errors as one line, standard input, what is printed, a status line."""

from __future__ import annotations

import errno
import io
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

import click

from hwpass import interrupts, plugins
from hwpass.command.grouped import Grouped
from hwpass.errors import HwpassError, InputError, words_of_the_shell

if TYPE_CHECKING:
    from rich.console import Console

#: Set to anything, unexpected errors keep their traceback.
DEBUG = "HWPASS_DEBUG"

#: What is printed where the terminal's encoding lacks a sign.
PLAINER = str.maketrans({"µ": "u", "…": "...", "×": "x", "≥": ">=", "≤": "<="})

#: What a full disk says; NumPy gives no number where it could not write all of an array.
FULL = (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: Seconds between two lines of progress where there is no terminal.
QUIET = 20.0

MEMORY = "out of memory; close other programs, allow this one more, or use a machine with more"


class ShellGroup(click.Group):
    """Turns every error into one line on standard error and the contract's exit status."""

    command_class = Grouped

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run; click's own complaints (a misspelt option, say) become one line as well."""
        inner: Callable[..., Any] = super().main
        if not extra.pop("standalone_mode", True):
            return inner(*args, standalone_mode=False, **extra)
        interrupts.run.written = []
        with words_of_the_shell(), plugins.told(say), warnings.catch_warnings():
            # What a library warns a programmer of is no line of ours; who asks Python for warnings gets them.
            if not sys.warnoptions and not os.environ.get(DEBUG):
                warnings.simplefilter("ignore")
            try:
                status = inner(*args, standalone_mode=False, **extra)
                flushed()
            except click.exceptions.NoArgsIsHelpError as error:
                error.show()
                sys.exit(error.exit_code)
            except click.ClickException as error:
                context = getattr(error, "ctx", None)
                hint = f"; see `{context.command_path} --help`" if context is not None else ""
                say(f"{error.format_message().rstrip('.')}{hint}")
                sys.exit(error.exit_code)
            except HwpassError as error:
                fail(error)
            except BrokenPipeError:
                _silence()
                status = 0
            except OSError as error:
                fail(InputError(f"standard output: cannot be written ({error.strerror or error})"))
            except (click.Abort, KeyboardInterrupt):
                say(interrupts.outcome("interrupted"))
                sys.exit(130)
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except HwpassError as error:
            fail(error)
        except KeyboardInterrupt:
            say(interrupts.outcome("interrupted"))
            ctx.exit(130)
        except BrokenPipeError:
            # The reader went away: not an error of ours.
            _silence()
            ctx.exit(0)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if os.environ.get(DEBUG):
                raise
            fail(surroundings(error) or _unexpected(error))


def surroundings(error: Exception) -> InputError | None:
    """The error as one of the machine that hwpass runs on (memory, files, threads), where it is one."""
    text = str(error)
    if isinstance(error, MemoryError) or "bad_alloc" in text or getattr(error, "errno", None) == errno.ENOMEM:
        return InputError(MEMORY)
    if isinstance(error, ImportError):
        *_, last = text.strip().splitlines() or [type(error).__name__]
        return InputError(f"a library cannot be loaded ({last}); allow it more memory, or install hwpass again")
    if isinstance(error, RecursionError):
        return InputError("the model, or a file given with it, is nested too deeply")
    if isinstance(error, RuntimeError) and "new thread" in text:
        return InputError(f"no more threads can be started ({text}); allow more, or end other programs")
    if isinstance(error, OSError) and error.filename is None and error.errno in FULL:
        reason = error.strerror or text
        return InputError(f"no room for temporary files: {reason}; make room, or set TMPDIR to a folder that has it")
    if isinstance(error, FileNotFoundError) and error.filename is None:
        return InputError("the working folder does not exist any more; change to another")
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return InputError(f"{where}{error.strerror or text or type(error).__name__}")
    if isinstance(error, ValueError) and "embedded null" in text:
        return InputError("a path with a zero byte in it cannot be used")
    return None


def _unexpected(error: Exception) -> HwpassError:
    done = f"; {interrupts.written()}" if interrupts.written() else ""
    return HwpassError(f"unexpected {_described(error)}; please report it ({DEBUG}=1 shows the traceback){done}")


def _described(error: Exception) -> str:
    """The error, and the innermost place of ours that it came through."""
    place, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if name.startswith("hwpass."):
            place = f" in {name} line {trace.tb_lineno}"
        trace = trace.tb_next
    told = "".join(f" {note}" for note in getattr(error, "__notes__", []) if note.startswith("in pass "))
    return f"{type(error).__name__}{place}{told}: {str(error)[:200]}"


def say(text: str) -> None:
    """One line on standard error."""
    line = f"hwpass: {' '.join(text.split())}"
    # Nobody may be reading any more.
    with suppress(OSError, ValueError):
        click.echo(line.encode(errors="backslashreplace").decode(), err=True)


def fail(error: HwpassError) -> NoReturn:
    """Print the error's one line and exit with its status."""
    say(str(error))
    sys.exit(error.exit_code)


def flushed(text: str = "") -> None:
    """Have what was printed, and this text, arrive on standard output. Raises InputError where it cannot."""
    if sys.stdout is None or sys.stdout.closed:
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _silence()
        done = f"; {interrupts.written()}" if interrupts.written() else ""
        raise InputError(f"standard output: cannot be written ({error.strerror or error}){done}") from None


def _silence() -> None:
    """What standard output still holds must not be tried again."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def printed(*taken: str | None) -> Iterator[Console]:
    """What to print on: standard output, or standard error when something else goes there (`-`).

    It arrives when the context ends, in whatever letters the stream has. Raises InputError where it cannot be printed.
    """
    from rich.console import Console

    like = Console(stderr="-" in taken)
    color: Any = like.color_system
    text = io.StringIO()
    yield Console(
        file=text, force_terminal=like.is_terminal, color_system=color, no_color=like.no_color, width=like.width or 80,
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    stream = sys.stderr if like.stderr else sys.stdout
    if stream is None or stream.closed:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = text.getvalue()
    try:
        shown.encode(encoding)
    except UnicodeEncodeError:
        shown = shown.translate(PLAINER).encode(encoding, errors="backslashreplace").decode(encoding)
    if like.stderr:
        with suppress(OSError, ValueError):
            stream.write(shown)
            stream.flush()
        return
    flushed(shown)


def source(*models: str) -> list[str | bytes]:
    """What to load each model from: its path, or the bytes of standard input for `-`."""
    return [_standard_input() if model == "-" else model for model in models]


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise InputError("standard input: it is closed; name a file")
    data = sys.stdin.buffer.read()
    if not data:
        raise InputError("standard input: the file is empty")
    return data


def note(text: str) -> None:
    """A remark on standard error that is no error."""
    with suppress(OSError, ValueError):
        click.echo(text, err=True)


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """A status line on a terminal's standard error; elsewhere a line now and then of what takes long."""
    from rich.console import Console

    screen = Console(stderr=True)
    start = time.monotonic()
    if not screen.is_terminal or sys.stderr is None:
        yield now_and_then(lambda: time.monotonic() - start, say)
        return
    with screen.status("starting") as status:
        interrupts.run.drawing = True
        try:
            yield lambda text: status.update(f"{text} ({time.monotonic() - start:.0f} s)")
        finally:
            interrupts.run.drawing = False


def now_and_then(passed: Callable[[], float], tell: Callable[[str], None]) -> Callable[[str], None]:
    """Tells what is going on once in `QUIET` seconds; `passed` gives the seconds so far."""
    last = 0.0

    def progress(text: str) -> None:
        nonlocal last
        now = passed()
        if now >= last + QUIET:
            last = now
            tell(f"after {now:.0f} s: {text}")

    return progress
