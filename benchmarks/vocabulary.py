"""What --prune-vocabulary leaves of a sentence encoder: rows, and how alike embeddings of other text are.

    python benchmarks/vocabulary.py minilm.onnx tokenizer.json [--samples 2048] [--licences /usr/share/common-licenses]

The samples are sentences of Python's manual, as `pydoc` has it. Other sentences of it, and of licences, are embedded by
the original, and with other rows in place of those that no sample looks up: the nearest by direction, as hwpass takes
them, the nearest by distance, and one unknown token.
"""

from __future__ import annotations

import argparse
import pydoc_data.topics
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import show
from onnx import numpy_helper

from hwpass.runtime.sessions import open_session, run_session
from hwpass.surgery.vocabulary import nearest

TABLE, FIRST, TESTED = "bert.embeddings.word_embeddings.weight", 256, 200


def sentences(texts: Iterable[str], seed: int = 0) -> list[str]:
    """Sentences of 20 to 400 letters in a random order."""
    found = [re.sub(r"\s+", " ", part).strip() for part in re.split(r"(?<=[.!?])\s+|\n\n", "\n\n".join(texts))]
    found = [part for part in found if 20 < len(part) < 400 and re.match(r"[A-Z]", part)]
    random.Random(seed).shuffle(found)
    return found


def by_distance(values: Any, kept: Any, goals: Any) -> Any:
    """The nearest goal by Euclidean distance."""
    ends, others, found = np.flatnonzero(goals), np.flatnonzero(~kept), np.arange(len(values))
    half = np.square(values[ends]).sum(axis=1) / 2
    for part in np.array_split(others, 16):
        found[part] = ends[np.argmax(values[part] @ values[ends].T - half, axis=1)]
    return found


def main() -> None:
    """Print the rows that stay, and the mean cosine on text of the same kind and of another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--licences", type=Path, default=Path("/usr/share/common-licenses"))
    options = parser.parse_args()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(options.tokenizer))
    tokenizer.no_padding()
    tokenizer.enable_truncation(64)
    manual = list(dict.fromkeys(sentences(pydoc_data.topics.topics.values())))
    licences = sorted(path for path in options.licences.iterdir() if path.is_file())
    kinds = {
        "the manual": manual[options.samples :][:TESTED],
        "licences": sentences(path.read_text(errors="ignore") for path in licences)[:TESTED],
    }
    tokens = {kind: [tokenizer.encode(text).ids for text in texts] for kind, texts in kinds.items()}
    model = onnx.load(options.model)
    table = next(tensor for tensor in model.graph.initializer if tensor.name == TABLE)
    values = numpy_helper.to_array(table).copy()
    seen = np.zeros(len(values), bool)
    for text in manual[: options.samples]:
        seen[tokenizer.encode(text).ids] = True
    kept = seen | (np.arange(len(values)) < FIRST)
    print(f"{kept.sum()} of {len(kept)} rows stay, with {options.samples} sentences")
    unknown = np.where(kept, np.arange(len(kept)), tokenizer.token_to_id("[UNK]"))
    stands_in = {
        "none": np.arange(len(kept)), "nearest by direction": nearest(values, kept, seen),
        "nearest by distance": by_distance(values, kept, seen), "one unknown token": unknown,
    }  # fmt: skip
    embedded = {}
    for name, rows in stands_in.items():
        table.CopyFrom(numpy_helper.from_array(values[rows], TABLE))
        session = open_session(model)
        for kind, lines in tokens.items():
            vectors = []
            for line in lines:
                ids = np.asarray([line], np.int64)
                (states,) = run_session(session, {"input_ids": ids, "attention_mask": np.ones_like(ids)}).values()
                vectors.append(states[0].mean(axis=0))
            embedded[name, kind] = np.stack(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [
        [name, *(float((embedded[name, kind] * embedded["none", kind]).sum(axis=1).mean()) for kind in kinds)]
        for name in stands_in if name != "none"
    ]  # fmt: skip
    absent = [1 - float(np.mean(seen[np.concatenate(tokens[kind])])) for kind in kinds]
    show("embeddings", ["a token without a row takes", *kinds], [*rows, ["share of such tokens", *absent]])


if __name__ == "__main__":
    main()
