"""What a command writes: checked before the work, made as drafts after it, and there all at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import copyfileobj
from typing import TYPE_CHECKING, BinaryIO

from hwpass import interrupts
from hwpass.command.shell import printed
from hwpass.errors import InputError, UsageError, option
from hwpass.files.temporary import TemporaryFolder
from hwpass.files.whole_files import check_writable, together, write_text
from hwpass.model.aliases import Place, files_of_data, files_of_metric, files_of_model

if TYPE_CHECKING:
    from rich.console import Console

    from hwpass.workflows.job import Result

    Content = Result | Callable[[], str] | None


class Outputs:
    """The outputs of one command by option: paths, `-` for standard output, None for those not asked for."""

    def __init__(self, paths: Mapping[str, str | None]) -> None:
        self.paths = {name: path for name, path in paths.items() if path is not None}
        self.stream: BinaryIO | None = None

    def write(self, **contents: Content) -> None:
        """Write what was asked for, by option: models as they are, texts when they are needed.

        Files appear when all of it has been made, and what goes to standard output has arrived. Raises InputError.
        """
        asked = {name: content for name, content in contents.items() if name in self.paths and content is not None}
        with together():
            for name, content in asked.items():
                path = self.paths[name]
                if path == "-":
                    continue
                if callable(content):
                    write_text(path, content())
                elif content is not None:
                    content.save(path)
            for name, content in asked.items():
                if self.paths[name] == "-" and content is not None:
                    self._send(content)

    @contextmanager
    def printed(self) -> Iterator[Console]:
        """What to print the report on, which leaves standard output to what goes there."""
        with printed(*self.paths.values()) as console:
            yield console

    def _send(self, content: Result | Callable[[], str]) -> None:
        assert self.stream is not None
        interrupts.run.streaming = True
        try:
            if callable(content):
                self.stream.write(content().encode("utf-8", errors="backslashreplace"))
            else:
                with TemporaryFolder() as folder:
                    draft = folder / "model.onnx"
                    content.write(draft)
                    with open(draft, "rb") as stream:
                        copyfileobj(stream, self.stream)
            self.stream.flush()
        except OSError as error:
            raise InputError(
                f"standard output: cannot be written ({error.strerror or error}); what arrived there is cut short"
            ) from None
        interrupts.run.streaming = False
        interrupts.wrote("standard output")


@contextmanager
def outputs(
    inputs: Mapping[str, str | Sequence[str] | None], more: Mapping[str, Sequence[str]] | None = None,
    /, **paths: str | None,
) -> Iterator[Outputs]:  # fmt: skip
    """The outputs of a command, checked before its work: that each can be written, and is nothing else that is used.

    `inputs` are what it reads, by parameter or argument; `more` are files that it writes by itself, by option. While
    a result goes to standard output, whatever else prints there (a metric, a library) is sent to standard error.
    Raises UsageError where a file would be written over another, InputError where one cannot be written.
    """
    found = Outputs(paths)
    _check_apart(inputs, {name: [path] for name, path in found.paths.items() if path != "-"} | dict(more or {}))
    streams = [name for name, path in found.paths.items() if path == "-"]
    if len(streams) > 1:
        both = " and ".join(map(option, streams[:2]))
        raise UsageError(f"{both} both go to standard output; give each a place of its own")
    for path in found.paths.values():
        if path != "-":
            check_writable(path)
    if not streams:
        yield found
        return
    if sys.stdout is None:
        raise InputError(f"{option(streams[0], '-')}: standard output is closed; name a file")
    if streams == ["output"] and sys.stdout.isatty():
        raise UsageError(
            f"{option('output', '-')}: standard output is a terminal; name a file, or send it on by a pipe"
        )
    with _apart() as found.stream:
        yield found


@contextmanager
def _apart() -> Iterator[BinaryIO]:
    """Standard output for results alone."""
    real = sys.stdout
    real.flush()
    try:
        shared = real.fileno() == 1 and sys.stderr is not None and sys.stderr.fileno() == 2
    except (OSError, ValueError, AttributeError):
        shared = False
    sys.stdout = sys.stderr if sys.stderr is not None else open(os.devnull, "w")  # noqa: SIM115
    if not shared:
        try:
            yield real.buffer
        finally:
            sys.stdout = real
        return
    kept = os.dup(1)
    os.dup2(2, 1)  # libraries print without asking Python
    stream = open(kept, "wb", closefd=False)  # noqa: SIM115
    try:
        yield stream
    finally:
        with suppress(OSError):
            stream.close()
        os.dup2(kept, 1)
        os.close(kept)
        sys.stdout = real


def _check_apart(inputs: Mapping[str, str | Sequence[str] | None], outputs: Mapping[str, Sequence[str]]) -> None:
    sources = list(_sources(inputs))
    seen: list[Place] = []
    for name, paths in outputs.items():
        places = [Place.of(option(name), path) for path in paths]
        if name == "output":  # a large model has its weights in a file of this name
            places += [Place.of(f"the weights of {option(name)}", f"{path}.data") for path in paths]
        for place in places:
            source = next((source for source in sources if source.same(place)), None)
            if source is not None:
                raise UsageError(
                    f"{place.label} {place.path}: that is {source.label}, which is read; name another place"
                )
            other = next((other for other in seen if other.same(place)), None)
            if other is not None:
                raise UsageError(
                    f"{place.label} and {other.label} both go to {place.path}; give each a place of its own"
                )
        seen += places
    for number, stream in ((1, "standard output"), (2, "standard error")):
        place_of_stream = Place.of_stream(stream, number)
        other = next((other for other in seen if place_of_stream is not None and other.same(place_of_stream)), None)
        if other is not None:
            raise UsageError(f"{other.label} {other.path}: {stream} goes there already; name another place")


def _sources(inputs: Mapping[str, str | Sequence[str] | None]) -> Iterator[Place]:
    """The files that a command reads."""
    for name, given in inputs.items():
        label = name if name.isupper() else option(name)
        for path in [given] if isinstance(given, str) else given or ():
            if path == "-":
                stream = Place.of_stream("standard input", 0)
                if stream is not None:
                    yield stream
            elif name == "target":
                if Path(path).suffix == ".toml":
                    yield Place.of(label, path)
            else:
                files = {"calib": files_of_data, "metric": files_of_metric}
                files |= dict.fromkeys(("plan", "PLAN", "from", "resume"), iter_one)
                for file in files.get(name, files_of_model)(path):
                    yield Place.of(label, file)


def iter_one(path: str) -> Iterator[str]:
    """The path alone."""
    yield path
