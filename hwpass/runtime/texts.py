"""Lines of text as what a model of text reads: token ids, and the mask, token types, positions and lengths of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hwpass.errors import InputError, UsageError, option
from hwpass.figures import shown_path
from hwpass.runtime.inputs import InputSpec, StatedInput

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

SUFFIXES = (".txt",)

TOKENIZER = "tokenizer.json"

MOST = 1 << 14
"""Of more lines only every second, fourth and so on is read: a tenth of them would be enough."""

LENGTH = 128
"""Tokens of the longest sample, where the model, the tokenizer and the user leave it open: what costs are told for."""

TOGETHER = 32
"""Samples of one length that follow each other, so that the first samples are not the shortest ones."""

Role = Literal["ids", "mask", "types", "positions", "lengths"]

NAMED: tuple[tuple[Role, str], ...] = (
    ("mask", "mask"), ("types", "type|segment"), ("positions", "pos"), ("lengths", r"len(gth)?s?$"),
)  # fmt: skip

#: Tokens that fill up, where the file of the tokenizer does not name one.
FILLERS = ("[PAD]", "<pad>", "<|padding|>", "<|pad|>", "<|endoftext|>")


@dataclass(frozen=True)
class Filling:
    """What short samples are filled up with, and whether that goes before them."""

    token: int
    type: int
    left: bool


def with_tokenizer(
    source: str, specs: Sequence[InputSpec], folders: Iterable[Path]
) -> tuple[Sequence[InputSpec], Path | None]:
    """The inputs, one of them with a tokenizer; and the file, where it was found in one of the folders and not stated.

    Raises UsageError where there is none.
    """
    if any(_tokenizer(spec) for spec in specs):
        return specs, None
    taking = [spec for spec in specs if role_of(spec) == "ids"]
    found = next((path for folder in folders if (path := folder / TOKENIZER).is_file()), None)
    if found is None or len(taking) > 1:
        raise _unstated(source, taking or specs, "which input takes the token ids" if found else "the tokenizer")
    stated = {spec.name: replace(spec.stated or StatedInput(), tokenizer=str(found)) for spec in taking}
    return [replace(spec, stated=stated.get(spec.name, spec.stated)) for spec in specs], found


def _unstated(source: str, specs: Sequence[InputSpec], what: str) -> UsageError:
    example = option("input", f"{specs[0].name}:tokenizer={TOKENIZER}")
    return UsageError(f"{source}: text, and {what} is not stated; give {example}")


def token_rows(lines: Sequence[str], source: str, specs: Sequence[InputSpec]) -> list[dict[str, NDArray[Any]]]:
    """Arrays by input for samples of one length each, a few at a time, about in the order of the lines.

    Where the model leaves the length open, samples are not filled up: positions that say nothing would count as
    activations. Longer ones are cut down by up to an eighth, so that many have one length. Raises InputError, and
    UsageError where the tokenizer is not stated.
    """
    roles = _roles(source, specs)
    paths = {path for spec in specs if (path := _tokenizer(spec))}
    if len(paths) > 1:
        raise InputError(f"{source}: two tokenizers for one text; state the same for all inputs that take token ids")
    tokenizer = _opened(source, Path(next(iter(paths))))
    fixed = min((s for spec in specs for s in spec.shape[1:2] if isinstance(s, int)), default=None)
    whole = any(spec.shape and isinstance(spec.shape[0], int) and spec.shape[0] > 1 for spec in specs)
    own = tokenizer.padding
    encoded = _encoded(tokenizer, lines, _longest(tokenizer, specs, fixed), source, even=not fixed and not whole)
    if not encoded:
        raise InputError(f"{source}: no line of it gives a token; give text that the tokenizer knows")
    length = fixed or (max(len(e) for e in encoded) if whole else None)
    if length is not None:
        needed = "mask" not in roles.values() and any(len(encoding) < length for encoding in encoded)
        filling = _filling(own, tokenizer, f"{source}: samples are shorter than {length} tokens" if needed else "")
        return [_arrays(encoded, length, filling, roles, specs)]
    return [_arrays(part, len(part[0]), Filling(0, 0, False), roles, specs) for part in _alike(encoded)]


def _tokenizer(spec: InputSpec) -> str | None:
    return None if spec.stated is None else spec.stated.tokenizer


def role_of(spec: InputSpec) -> Role | None:
    """What an input is to a text, by its name; None for what nothing in a text gives."""
    name, rank = spec.name.lower(), len(spec.shape)
    if _tokenizer(spec):
        return "ids"
    role: Role = next((role for role, pattern in NAMED if re.search(pattern, name)), "ids")
    whole = spec.dtype.kind in "iu"
    fits = rank == 1 and whole if role == "lengths" else rank == 2 and (whole or role == "mask")
    return role if fits else None


def _roles(source: str, specs: Sequence[InputSpec]) -> dict[str, Role]:
    """By input. Raises InputError for an input that text does not give."""
    stated = any(map(_tokenizer, specs))
    found: dict[str, Role] = {}
    for spec in specs:
        role = role_of(spec)
        if role is None or (role == "ids" and not _tokenizer(spec) and stated):
            raise InputError(
                f"{source}: text, but input {spec.name!r} of shape {list(spec.shape)} takes neither its token ids nor "
                "a mask, token types, positions or lengths of them; use an .npz"
            )
        if spec.stated is not None and (spec.stated.scaled or spec.stated.layout):
            raise UsageError(f"{option('input', f'{spec.name}:{spec.stated}')}: of text say the tokenizer alone")
        found[spec.name] = role
    if not stated:
        raise _unstated(source, specs, "the tokenizer")
    return found


def _opened(source: str, path: Path) -> Tokenizer:
    """The tokenizer in a file, or in a folder under its usual name. Raises InputError."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UsageError(f"{source}: text needs a tokenizer: pip install 'hwpass[text]'") from error
    path = path / TOKENIZER if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{shown_path(path)}: there is no such tokenizer; give a {TOKENIZER}")
    try:
        return Tokenizer.from_file(str(path))
    except BaseException as error:
        raise _refused(error, f"{shown_path(path)}: not a tokenizer that can be read", "export it again") from error


def _refused(error: BaseException, what: str, mend: str) -> BaseException:
    """What the library raises as one line: some of it derives from no usual exception."""
    if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
        return error
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return InputError(f"{what}: {reason}; {mend}")


def _longest(tokenizer: Tokenizer, specs: Sequence[InputSpec], fixed: int | None) -> int:
    """Tokens of the longest sample: the least of what the model, the user and the tokenizer say."""
    stated = [spec.stated.length for spec in specs if spec.stated is not None]
    own = tokenizer.truncation
    told = [fixed, *stated, None if own is None or any(stated) else int(own["max_length"])]
    return min((length for length in told if length), default=LENGTH)


def _encoded(tokenizer: Tokenizer, lines: Sequence[str], most: int, source: str, *, even: bool) -> list[Encoding]:
    """What each line gives, cut to `most` tokens; lines without any are left out.

    With `even` longer ones are cut again, to one of eight lengths between a power of two and the next.
    """
    cut = {} if tokenizer.truncation is None else {"direction": tokenizer.truncation["direction"]}
    tokenizer.no_padding()

    def encode(line: str, longest: int) -> Encoding:
        tokenizer.enable_truncation(longest, **cut)
        return tokenizer.encode(line)  # one by one: many at a time take all threads

    found = []
    for number, line in enumerate(lines, 1):
        try:
            encoding = encode(line, most)
            if even and _even(len(encoding)) < len(encoding):
                encoding = encode(line, _even(len(encoding)))
        except BaseException as error:
            where = f"{source}: sample {number}: the tokenizer refuses it"
            raise _refused(error, where, "take it out") from error
        if len(encoding) > most:
            raise InputError(f"{source}: the tokenizer's own tokens alone are more than {most}; state a larger length")
        found.append(encoding)
    return [encoding for encoding in found if len(encoding)]


def _even(length: int) -> int:
    """A length of which only the first four binary digits are left.

    >>> [_even(length) for length in (7, 16, 17, 35, 127)]
    [7, 16, 16, 32, 120]
    """
    unit = 1 << max(length.bit_length() - 4, 0)
    return length // unit * unit


def _alike(encoded: Sequence[Encoding]) -> list[list[Encoding]]:
    """Samples of one length, a few at a time, in the order of the first of them."""
    parts: list[list[Encoding]] = []
    latest: dict[int, list[Encoding]] = {}
    for encoding in encoded:
        part = latest.setdefault(len(encoding), [])
        if not part:
            parts.append(part)
        part.append(encoding)
        if len(part) == TOGETHER:
            del latest[len(encoding)]
    return parts


def _filling(own: Mapping[str, Any] | None, tokenizer: Tokenizer, needed: str) -> Filling:
    """What the tokenizer says of it, else its token for that. Raises InputError where one is needed and there is none:
    another would mean something."""
    if own is not None:
        return Filling(int(own["pad_id"]), int(own["pad_type_id"]), own["direction"] == "left")
    known = [found for token in FILLERS if (found := tokenizer.token_to_id(token)) is not None]
    if not known and needed:
        raise InputError(
            f"{needed}, and the tokenizer has none to fill them up; give it a padding, or the model a mask"
        )
    return Filling(known[0] if known else 0, 0, False)


def _arrays(
    encoded: Sequence[Encoding], length: int, filling: Filling, roles: dict[str, Role], specs: Sequence[InputSpec]
) -> dict[str, NDArray[Any]]:
    """Samples of up to `length` tokens, filled up to it."""
    shape = (len(encoded), length)
    values: dict[Role, NDArray[np.int64]] = {
        "ids": np.full(shape, filling.token), "types": np.full(shape, filling.type), "mask": np.zeros(shape, np.int64)
    }  # fmt: skip
    for row, encoding in enumerate(encoded):
        places = slice(length - len(encoding), length) if filling.left else slice(len(encoding))
        values["ids"][row, places], values["types"][row, places] = encoding.ids, encoding.type_ids
        values["mask"][row, places] = 1
    values["lengths"] = values["mask"].sum(axis=1)
    # Before the first token stand zeros: what generates text counts from there.
    counted = np.maximum(np.cumsum(values["mask"], axis=1) - 1, 0)
    values["positions"] = counted if filling.left else np.broadcast_to(np.arange(length), shape)
    dtypes = {spec.name: spec.dtype for spec in specs}
    return {name: np.ascontiguousarray(values[role].astype(dtypes[name])) for name, role in roles.items()}
