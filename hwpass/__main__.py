"""`python -m hwpass`, and the command `hwpass`: signals are heeded from here on, imports included."""

from hwpass import interrupts

if __name__ == "__main__":
    interrupts.watch()

import os
import sys
from contextlib import suppress
from typing import NoReturn

try:
    import resource
except ImportError:  # pragma: no cover  # another system
    resource = None  # type: ignore[assignment]

#: Bytes of address space that the libraries take before any model is read; 330 MB were measured.
NEEDED = 384 << 20


def main() -> NoReturn:
    """Run the command line, and end the process with its status."""
    interrupts.watch()
    _fill_closed_streams()
    # Threads of BLAS are of no use here (see hwpass.runtime.blas_threads); where memory is limited, making them fails
    # noisily.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        _require_room()
        from hwpass.command.cli import main as command

        command(prog_name="hwpass")
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except (ImportError, MemoryError, OSError, SystemError) as error:
        # Nothing of ours has been at work: a library is missing, or there is no room to load it.
        if os.environ.get("HWPASS_DEBUG"):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        with suppress(OSError):
            os.write(2, f"hwpass: cannot be loaded ({reason}); install it again, or allow it more memory\n".encode())
        status = 3
    _finish(status)


def _require_room() -> None:
    """Raise MemoryError where the libraries have no room: one of them does not fail there, it never ends."""
    if resource is None:
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < NEEDED:
        raise MemoryError(f"its libraries need {NEEDED >> 20} MiB of memory, and {limit >> 20} MiB are allowed")


def _fill_closed_streams() -> None:
    """Take the numbers of closed standard streams: a file that got one would be written to by mistake."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)


def _finish(status: int) -> NoReturn:
    """End here and now: a signal while the interpreter takes itself apart would end in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    interrupts.remove(list(interrupts.run.folders))
    os._exit(status)


if __name__ == "__main__":
    main()
