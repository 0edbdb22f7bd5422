"""Real trained models with a task: unlabelled inputs to calibrate on, a metric on other data, and a size to time at."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from rendered_text import Line, lines, normalised, words
from scipy.stats import rankdata, spearmanr
from spoken_noise import FRAME, clips

from hwpass.runtime.inputs import input_specs
from hwpass.runtime.sessions import ModelLike, open_session, run_session

#: Most samples that are run at once.
BATCH = 16

TEST_TEXTS, CALIBRATION_TEXTS = ("GPL-2", "LGPL-2.1", "GFDL-1.3"), ("Apache-2.0", "MPL-2.0", "Artistic", "GPL-3")

Feed = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Task:
    """A model file, its calibration feeds, its metric (larger is better) and the feed whose sizes are timed."""

    name: str
    path: Path
    measure: str
    metric: Callable[[ModelLike], float]
    calibration: Callable[[], Sequence[Feed]]
    dims: dict[str, int]


def find(folders: Sequence[Path], name: str) -> Path | None:
    """A model file of that name below one of the folders."""
    return next((p for folder in folders for p in sorted(folder.rglob(name))), None)


def tasks(folders: Sequence[Path]) -> Iterator[Task]:
    """Every task whose files are below the folders."""
    for name in ("ch_PP-OCRv4_rec_infer", "PP-OCRv6_rec_small"):
        if path := find(folders, f"{name}.onnx"):
            yield recogniser(name, path)
    if path := find(folders, "ch_ppocr_mobile_v2.0_cls_infer.onnx"):
        yield direction(path)
    if path := find(folders, "silero_vad_16k_op15.onnx"):
        yield voice(path)
    path, pairs, text = (find(folders, name) for name in ("minilm.onnx", "wordsim353.tsv", "lee_background.cor"))
    vocabulary = find(folders, "tokenizer.json")
    if path and pairs and text and vocabulary:
        yield sentences(path, vocabulary, pairs, text)


@cache
def _lines(count: int, seed: int, texts: tuple[str, ...]) -> list[Line]:
    return list(lines(count, seed, words(texts)))


def _width(line: Line) -> int:
    """The recognisers' input width: 320, or what the line needs, in steps of 32."""
    height, width = line.picture.shape[:2]
    needed: int = -(-48 * width // (32 * height)) * 32
    return max(320, needed)


def recogniser(name: str, path: Path) -> Task:
    """Text of a line: the share of 400 lines read without any mistake."""
    characters = {p.key: p.value for p in onnx.load(path, load_external_data=False).metadata_props}["character"]
    letters = ["", *characters.splitlines(), " "]

    def metric(model: ModelLike) -> float:
        session = open_session(model)
        found = _lines(400, 1, TEST_TEXTS)
        groups: dict[int, list[Line]] = defaultdict(list)
        for line in found:
            groups[_width(line)].append(line)
        right = 0
        for width, same in groups.items():
            for start in range(0, len(same), BATCH):
                part = same[start : start + BATCH]
                x = np.stack([normalised(line.picture, 48, width) for line in part])
                (scores,) = run_session(session, {"x": x}).values()
                right += sum(_read(row, letters) == line.text for row, line in zip(scores, part, strict=True))
        return right / len(found)

    def calibration() -> list[Feed]:
        found = sorted(_lines(256, 2, CALIBRATION_TEXTS), key=_width)
        return [{"x": normalised(line.picture, 48, _width(line))[None]} for line in found]

    return Task(name, path, "lines read", metric, calibration, _sizes(path, {"x": (1, 3, 48, 320)}))


def _sizes(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """The sizes of the dynamic axes of a model when its inputs have these shapes."""
    found: dict[str, int] = {}
    for spec in input_specs(onnx.load(path, load_external_data=False)):
        if spec.name in shapes:
            found |= {axis: n for axis, n in zip(spec.shape, shapes[spec.name], strict=True) if isinstance(axis, str)}
    return found


def _read(scores: NDArray[np.float32], letters: list[str]) -> str:
    """Greedy decoding of connectionist temporal classification: repeats merged, blanks (0) dropped."""
    best = scores.argmax(axis=1)
    fresh = np.concatenate([[True], best[1:] != best[:-1]])
    return "".join(letters[i] for i in best[fresh & (best > 0)]).strip()


def direction(path: Path) -> Task:
    """Upright or upside down: accuracy on 400 lines, every other one turned."""

    def pictures(found: list[Line]) -> NDArray[np.float32]:
        turned = [line.picture[::-1, ::-1] if i % 2 else line.picture for i, line in enumerate(found)]
        return np.stack([normalised(np.ascontiguousarray(picture), 48, 192) for picture in turned])

    def metric(model: ModelLike) -> float:
        session = open_session(model)
        x = pictures(_lines(400, 1, TEST_TEXTS))
        found = []
        for start in range(0, len(x), BATCH):
            (scores,) = run_session(session, {"x": x[start : start + BATCH]}).values()
            found.append(scores.argmax(axis=1))
        return float(np.mean(np.concatenate(found) == np.arange(len(x)) % 2))

    def calibration() -> list[Feed]:
        return [{"x": pictures(_lines(256, 2, CALIBRATION_TEXTS))}]

    sizes = _sizes(path, {"x": (1, 3, 48, 192)})
    return Task("ppocr_mobile_v2.0_cls", path, "accuracy", metric, calibration, sizes)


def _spoken(seed: int, texts: tuple[str, ...]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    vocabulary = words(texts)
    said = [" ".join(rng.choice(vocabulary, rng.integers(3, 9))) for _ in range(200)]
    return clips(24, 20.0, seed, said)


_spoken_once = cache(_spoken)


def voice(path: Path) -> Task:
    """Speech in a frame of 32 ms: area under the ROC curve over 24 clips of 20 s, the state carried along."""
    rate = np.asarray(16000, np.int64)

    def stream(model: ModelLike, audio: NDArray[np.float32]) -> Iterator[tuple[Feed, NDArray[np.float32]]]:
        """Frame by frame what goes in, and the probability of speech; the clips are the batch."""
        session = open_session(model)
        inputs = {value.name for value in session.get_inputs()}
        state = np.zeros((2, len(audio), 128), np.float32)
        padded = np.pad(audio, ((0, 0), (64, 0)))  # each frame comes with the 64 samples before it
        for start in range(0, audio.shape[1], FRAME):
            feed: Feed = {"input": padded[:, start : start + FRAME + 64], "state": state}
            if "sr" in inputs:
                feed["sr"] = rate
            found = run_session(session, feed)
            yield feed, found["output"][:, 0]
            state = found["stateN"]

    def metric(model: ModelLike) -> float:
        audio, speech = _spoken_once(1, TEST_TEXTS)
        return area(np.stack([p for _, p in stream(model, audio)], axis=1).ravel(), speech.ravel())

    def calibration() -> list[Feed]:
        audio, _ = _spoken_once(2, CALIBRATION_TEXTS)
        rng = np.random.default_rng(3)
        feeds = []
        for number, (feed, _) in enumerate(stream(path, audio)):
            if number % 6 == 5:
                clip = rng.permutation(len(audio))[:10]
                feeds.append({**feed, "input": feed["input"][clip], "state": feed["state"][:, clip]})
        return feeds

    sizes = _sizes(path, {"input": (1, FRAME + 64), "state": (2, 1, 128)})
    return Task(path.stem, path, "AUC", metric, calibration, sizes)


def area(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in the right order, ties half."""
    ranks, count = rankdata(scores), int(positive.sum())
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(scores) - count)))


def sentences(path: Path, vocabulary: Path, pairs: Path, text: Path) -> Task:
    """Similarity of two words: Spearman's correlation of the cosine with people's judgement (WordSim353)."""
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(str(vocabulary))
    tokens.no_padding()
    tokens.no_truncation()
    rows = [row.split("\t") for row in pairs.read_text().splitlines() if not row.startswith("#")]
    judged = [(a.lower(), b.lower(), float(score)) for a, b, score in rows]

    def encoded(said: str, most: int = 32) -> Feed:
        ids = np.asarray([tokens.encode(said).ids[:most]], np.int64)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def metric(model: ModelLike) -> float:
        session = open_session(model)
        vectors = {}
        for word in sorted({w for a, b, _ in judged for w in (a, b)}):
            (states,) = run_session(session, encoded(word)).values()
            mean = states[0].mean(axis=0)
            vectors[word] = mean / np.linalg.norm(mean)
        return float(spearmanr([vectors[a] @ vectors[b] for a, b, _ in judged], [s for _, _, s in judged]).statistic)

    def calibration() -> list[Feed]:
        """128 sentences cut to 32 tokens, and 512 single words none of which is judged, by length."""
        news = text.read_text(errors="ignore")
        rng = np.random.default_rng(0)
        known = {w for a, b, _ in judged for w in (a, b)}
        plain = sorted({w for w in re.findall(r"\b[a-z]{3,12}\b", news)} - known)
        long = [f for line in news.splitlines() if (f := encoded(line))["input_ids"].shape[1] == 32]
        short = [encoded(str(word)) for word in rng.choice(plain, 512, replace=False)]
        return [*long[:128], *sorted(short, key=lambda feed: feed["input_ids"].shape[1])]

    sizes = _sizes(path, {"input_ids": (1, 32), "attention_mask": (1, 32)})
    return Task("minilm", path, "Spearman", metric, calibration, sizes)
