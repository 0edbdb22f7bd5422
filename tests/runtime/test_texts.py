"""Text as calibration data: through a tokenizer, into what the inputs of a model are by their names."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from sketch import Sketch

import hwpass
from hwpass.data.given_inputs import given_inputs
from hwpass.model.model import Model
from hwpass.runtime.calibration import check_statements, load_calibration
from hwpass.runtime.inputs import InputSpec, StatedInput
from hwpass.runtime.readers import text as reader
from hwpass.runtime.stated_inputs import stated_specs

tokenizers = pytest.importorskip("tokenizers")

WORDS = ("the", "cat", "dog", "sat", "ran", "on", "under", "a", "mat", "tree")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
#: By number: four special tokens, then the words.
NUMBER = {word: place for place, word in enumerate((*SPECIAL, *WORDS))}


def tokenizer(path: Path, *, special: bool = True, unknown: bool = True, **more: Any) -> Path:
    """A token a word, [CLS] before and [SEP] behind them."""
    words = NUMBER if special else dict(zip(WORDS, range(10), strict=True))
    if not unknown:
        words = {word: number for word, number in words.items() if word != "[UNK]"}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if special:
        made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    if "padding" in more:
        made.enable_padding(**more["padding"])
    if "truncation" in more:
        made.enable_truncation(more["truncation"])
    path.parent.mkdir(exist_ok=True, parents=True)
    made.save(str(path))
    return path


def specs(shape: tuple[int | str, ...], *others: str, path: Path | None = None, **stated: Any) -> list[InputSpec]:
    said = StatedInput(tokenizer=None if path is None else str(path), **stated)
    names = [("input_ids", np.int64), *((name, np.int64) for name in others)]
    return [InputSpec(name, np.dtype(kind), shape, said if name == "input_ids" else None) for name, kind in names]


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_every_input_gets_what_its_name_says(tmp_path: Path) -> None:
    path = tokenizer(tmp_path / "tokenizer.json")
    text = write(tmp_path / "x.txt", ["the cat sat", "a dog"])
    names = ("attention_mask", "token_type_ids", "position_ids")
    inputs = [*specs(("N", 6), *names, path=path), InputSpec("lengths", np.dtype(np.int32), ("N",))]
    inputs[1] = InputSpec("attention_mask", np.dtype(bool), ("N", 6))
    (feed,) = load_calibration(text, inputs).batches()
    assert feed["input_ids"].tolist() == [[2, 4, 5, 7, 3, 0], [2, 11, 6, 3, 0, 0]]
    assert feed["attention_mask"].tolist() == [[True] * 5 + [False], [True] * 4 + [False] * 2]
    assert feed["token_type_ids"].tolist() == [[0] * 6] * 2
    assert feed["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5]] * 2
    assert feed["lengths"].tolist() == [5, 4]
    assert feed["lengths"].dtype == np.int32


def test_long_samples_are_cut_and_keep_their_end(tmp_path: Path) -> None:
    path = tokenizer(tmp_path / "tokenizer.json")
    text = write(tmp_path / "x.txt", ["the cat sat on the mat"])
    (feed,) = load_calibration(text, specs(("N", 5), path=path)).batches()
    assert feed["input_ids"].tolist() == [[2, 4, 5, 7, 3]]
    (feed,) = load_calibration(text, specs(("N", "T"), path=path, length=4)).batches()
    assert feed["input_ids"].tolist() == [[2, 4, 5, 3]]
    tokenizer(path, truncation=3)
    (feed,) = load_calibration(text, specs(("N", "T"), path=path)).batches()
    assert feed["input_ids"].tolist() == [[2, 4, 3]]


def test_the_tokenizers_own_padding_and_side(tmp_path: Path) -> None:
    path = tokenizer(tmp_path / "t.json", padding={"direction": "left", "pad_id": 7, "pad_type_id": 1})
    text = write(tmp_path / "x.txt", ["the cat"])
    names = ("token_type_ids", "attention_mask", "position_ids")
    (feed,) = load_calibration(text, specs((1, 6), *names, path=path)).batches()
    assert feed["input_ids"].tolist() == [[7, 7, 2, 4, 5, 3]]
    assert feed["token_type_ids"].tolist() == [[1, 1, 0, 0, 0, 0]]
    assert feed["attention_mask"].tolist() == [[0, 0, 1, 1, 1, 1]]
    assert feed["position_ids"].tolist() == [[0, 0, 0, 1, 2, 3]]


def test_samples_of_an_open_length_are_not_filled_up(tmp_path: Path) -> None:
    """Forty words with [CLS] and [SEP] are 42 tokens, cut to 40, the next of eight lengths from 32 to 64."""
    path = tokenizer(tmp_path / "tokenizer.json")
    lines = ["the cat", "a dog ran", "cat sat", " ".join(["dog"] * 40), "on mat"]
    data = load_calibration(write(tmp_path / "x.txt", lines), specs(("N", "T"), "attention_mask", path=path))
    feeds = list(data.batches())
    assert data.samples == 5
    assert [feed["input_ids"].shape for feed in feeds] == [(3, 4), (1, 5), (1, 40)]
    assert feeds[0]["input_ids"].tolist() == [[2, 4, 5, 3], [2, 5, 7, 3], [2, 9, 12, 3]]
    assert feeds[2]["input_ids"][0, -1] == NUMBER["[SEP]"]
    assert all(feed["attention_mask"].all() for feed in feeds)


def test_the_first_samples_are_not_all_of_one_length(tmp_path: Path) -> None:
    path = tokenizer(tmp_path / "tokenizer.json")
    lines = ["cat"] * 40 + ["the cat"] * 40 + ["dog"] * 40
    data = load_calibration(write(tmp_path / "x.txt", lines), specs(("N", "T"), path=path))
    shapes = [feed["input_ids"].shape for feed in data.batches()]
    assert shapes == [(32, 3), (32, 3), (32, 4), (8, 4), (16, 3)]


def test_a_fixed_batch_has_one_length(tmp_path: Path) -> None:
    path = tokenizer(tmp_path / "tokenizer.json")
    text = write(tmp_path / "x.txt", ["the cat", "a dog ran", "mat"])
    feeds = list(load_calibration(text, specs((2, "T"), "attention_mask", path=path)).batches())
    assert [feed["input_ids"].tolist() for feed in feeds] == [[[2, 4, 5, 3, 0], [2, 11, 6, 8, 3]]]


def test_a_folder_of_files_and_what_is_no_sample(tmp_path: Path) -> None:
    path = tokenizer(tmp_path / "d" / "tokenizer.json")
    write(tmp_path / "d" / "b.txt", ["the cat", "", "  "])
    write(tmp_path / "d" / "a" / "c.TXT", ["\ufeffa dog"])
    write(tmp_path / "d" / ".hidden.txt", ["the mat"])
    (feed,) = load_calibration(tmp_path / "d", specs(("N", "T"), path=path)).batches()
    assert feed["input_ids"].tolist() == [[2, 11, 6, 3], [2, 4, 5, 3]]


def test_text_beside_arrays_is_no_data(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", ["the cat"])
    np.save(tmp_path / "input_ids.npy", np.zeros((3, 4), np.int64))
    (feed,) = load_calibration(tmp_path, specs(("N", 4))).batches()
    assert feed["input_ids"].shape == (3, 4)


def test_of_very_many_lines_every_so_many_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwpass.runtime.texts.MOST", 10)
    path = tokenizer(tmp_path / "tokenizer.json")
    text = write(tmp_path / "x.txt", [WORDS[number % 10] for number in range(35)])
    (feed,) = load_calibration(text, specs(("N", "T"), path=path)).batches()
    assert feed["input_ids"][:, 1].tolist() == [4 + number % 10 for number in range(0, 35, 4)]


def test_two_inputs_may_take_the_same_tokens(tmp_path: Path) -> None:
    path = tokenizer(tmp_path / "tokenizer.json")
    text = write(tmp_path / "x.txt", ["the cat"])
    encoder, decoder = specs(("N", "T"), "decoder_input_ids", path=path)
    with pytest.raises(hwpass.InputError, match=r"'decoder_input_ids' .* takes neither"):
        load_calibration(text, [encoder, decoder])
    both = [encoder, InputSpec(decoder.name, decoder.dtype, decoder.shape, encoder.stated)]
    (feed,) = load_calibration(text, both).batches()
    assert feed["decoder_input_ids"].tolist() == feed["input_ids"].tolist()
    both[1] = InputSpec(decoder.name, decoder.dtype, decoder.shape, StatedInput(tokenizer="other.json"))
    with pytest.raises(hwpass.InputError, match="two tokenizers"):
        load_calibration(text, both)


@pytest.mark.parametrize(
    ("lines", "error", "why"),
    [
        ([""], hwpass.InputError, "x.txt: no text in it"),
        (["caf\xe9"], hwpass.InputError, "x.txt: line 1 is not in UTF-8"),
        (["the " * 300000], hwpass.InputError, "line 1 is longer than 1 MiB"),
    ],
)
def test_text_that_cannot_be_read(lines: list[str], error: type[Exception], why: str, tmp_path: Path) -> None:
    path = tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "x.txt").write_bytes("\n".join(lines).encode("latin-1"))
    with pytest.raises(error, match=why) as caught:
        load_calibration(tmp_path / "x.txt", specs(("N", "T"), path=path))
    assert "\n" not in str(caught.value)


def test_tokenizers_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = write(tmp_path / "x.txt", ["the cat", "the bird"])
    with pytest.raises(hwpass.InputError, match=r"none.json: there is no such tokenizer"):
        load_calibration(text, specs(("N", "T"), path=tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{}", encoding="utf-8")
    with pytest.raises(hwpass.InputError, match=r"bad.json: not a tokenizer that can be read"):
        load_calibration(text, specs(("N", "T"), path=tmp_path / "bad.json"))
    path = tokenizer(tmp_path / "t" / "tokenizer.json", unknown=False)
    with pytest.raises(hwpass.InputError, match=r"x.txt: sample 2: the tokenizer refuses it: .*UNK"):
        load_calibration(text, specs(("N", "T"), path=tmp_path / "t"))  # a folder is enough
    with pytest.raises(hwpass.InputError, match="own tokens alone are more than 1"):
        load_calibration(text, specs(("N", 1), path=path))
    plain = tokenizer(tmp_path / "plain.json", special=False, unknown=False)
    short = write(tmp_path / "short.txt", ["the cat"])
    with pytest.raises(hwpass.InputError, match="shorter than 4 tokens, and the tokenizer has none"):
        load_calibration(short, specs(("N", 4), path=plain))
    (feed,) = load_calibration(short, specs(("N", 4), "attention_mask", path=plain)).batches()
    assert feed["attention_mask"].tolist() == [[1, 1, 0, 0]]
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(hwpass.UsageError, match=r"x.txt: text needs .*pip install 'hwpass\[text\]'"):
        load_calibration(text, specs(("N", "T"), path=path))


def test_inputs_that_text_does_not_give(tmp_path: Path) -> None:
    path = tokenizer(tmp_path / "tokenizer.json")
    text = write(tmp_path / "x.txt", ["the cat"])
    past = InputSpec("past_key", np.dtype(np.float32), ("N", 4, "P", 8))
    with pytest.raises(hwpass.InputError, match=r"'past_key' .* takes neither"):
        load_calibration(text, [*specs(("N", "T"), path=path), past])
    with pytest.raises(hwpass.UsageError, match=r"text, and the tokenizer is not stated; give input='input_ids:token"):
        load_calibration(text, specs(("N", "T")))
    with pytest.raises(hwpass.UsageError, match="say the tokenizer alone"):
        load_calibration(text, specs(("N", "T"), path=path, range=(0.0, 4.0)))


def test_a_tokenizer_needs_text(tmp_path: Path) -> None:
    for data in (None, tmp_path):
        with pytest.raises(hwpass.UsageError, match=r"arrays in calib|there is no text"):
            check_statements(data, specs(("N", "T"), path=tmp_path))
    with pytest.raises(hwpass.UsageError, match="there is no text"):
        check_statements(None, specs(("N", "T"), length=4))


def encoder(*, rows: int = len(NUMBER), positions: int = 64, width: int = 16, hidden: int = 48) -> onnx.ModelProto:
    """Token ids and a mask: embeddings and positions, a hidden layer, the mean over the tokens that are there."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return rng.normal(0, shape[0] ** -0.5, shape)

    s = Sketch()
    ids = s.input(["N", "T"], name="input_ids", dtype=onnx.TensorProto.INT64)
    mask = s.input(["N", "T"], name="attention_mask", dtype=onnx.TensorProto.INT64)
    length = s.op("Gather", s.op("Shape", ids), s.const(np.asarray(1)), axis=0)
    places = s.op("Range", s.const(np.asarray(0)), length, s.const(np.asarray(1)))
    x = s.op(
        "Add",
        s.op("Gather", s.const(normal(rows, width)), ids),
        s.op("Gather", s.const(normal(positions, width)), places),
    )
    x = s.op("MatMul", s.op("Relu", s.op("MatMul", x, s.const(normal(width, hidden)))), s.const(normal(hidden, 4)))
    there = s.op("Unsqueeze", s.op("Cast", mask, to=onnx.TensorProto.FLOAT), s.const(np.asarray([2])))
    s.output(s.op("ReduceSum", s.op("Mul", x, there), s.const(np.asarray([1])), keepdims=0))
    return s.model()


def sentences(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(count)]


def test_a_run_on_text_is_one_on_its_tokens(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(encoder().SerializeToString())
    stated = tokenizer(tmp_path / "t" / "words.json")
    text = write(tmp_path / "x.txt", sentences(200))
    asked: dict[str, Any] = {"macs": 0.6, "distill": "off"}
    told = hwpass.run(path, "mobile-cpu", calib=text, input=f"input_ids:tokenizer={stated}", **asked)
    feeds = load_calibration(text, specs(("N", "T"), "attention_mask", path=stated)).batches()
    given = hwpass.run(path, "mobile-cpu", calib=list(feeds), **asked)
    assert told.plan is not None
    assert given.plan is not None
    assert [group.kept for group in told.plan.groups] == [group.kept for group in given.plan.groups]
    assert not any("synthetic" in text or "found" in text for text in told.report.warnings)


def test_a_tokenizer_beside_the_model_or_the_text_is_taken_and_said(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    model = tmp_path / "model" / "m.onnx"
    model.write_bytes(encoder().SerializeToString())
    text = write(tmp_path / "data" / "x.txt", sentences(80))
    asked: dict[str, Any] = {"macs": 0.6, "distill": "off", "calib": text}
    with pytest.raises(hwpass.UsageError, match=r"x.txt: text, and the tokenizer is not stated"):
        hwpass.run(model, "mobile-cpu", **asked)
    for home in ("data", "model"):  # what lies beside the model goes first
        tokenizer(tmp_path / home / "tokenizer.json")
        result = hwpass.run(model, "mobile-cpu", **asked)
        (said,) = [text for text in result.report.warnings if "read through" in text]
        assert f"{home}/tokenizer.json, which was found and not stated; input='input_ids:tokenizer=FILE' names" in said
    result.save(tmp_path / "small.onnx")
    assert result.plan is not None
    (tmp_path / "plan.json").write_text(result.plan.to_json(), encoding="utf-8")


def test_tokens_that_the_model_has_no_rows_for(tmp_path: Path) -> None:
    """The tokenizer has 14 tokens, and the table one row less; the longest sample has ten tokens, for eight places."""
    path = tokenizer(tmp_path / "tokenizer.json")
    text = write(tmp_path / "x.txt", ["the cat", "the tree", " ".join(["cat"] * 8)])

    def given(model: onnx.ModelProto, said: str = "") -> Any:
        loaded = Model.load(model)
        inputs = stated_specs(
            hwpass.runtime.inputs.input_specs(loaded.interface()), f"input_ids:{said}tokenizer={path}"
        )
        return given_inputs(loaded, text, inputs, lambda text: None)

    assert given(encoder()).samples == 3
    with pytest.raises(
        hwpass.InputError, match=r"x.txt: token 13 of input 'input_ids', .* has rows 0 to 12; give the to"
    ):
        given(encoder(rows=13))
    with pytest.raises(hwpass.InputError, match=r"not run on the longest samples \('input_ids' \[1, 10\], .*length=64"):
        given(encoder(positions=8))
    assert given(encoder(positions=8), "length=8,").samples == 3


def test_apply_and_verify_read_text_too(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from hwpass.command.cli import main

    model, path = tmp_path / "m.onnx", tokenizer(tmp_path / "t.json")
    model.write_bytes(encoder().SerializeToString())
    text = write(tmp_path / "x.txt", sentences(80))
    said = ["--calib", str(text), "--input", f"input_ids:tokenizer={path}"]
    plan, small = str(tmp_path / "p.json"), str(tmp_path / "s.onnx")
    for words in (
        [
            "run",
            str(model),
            "--target",
            "mobile-cpu",
            "--macs",
            "0.6x",
            "--distill",
            "off",
            "-o",
            small,
            "--plan",
            plan,
        ],
        ["apply", plan, str(model), "--distill", "off", "-o", str(tmp_path / "again.onnx")],
        ["verify", str(model), small, "--plan", plan],
    ):
        done = CliRunner().invoke(main, [*words, *said])
        assert done.exit_code == 0, done.output
    done = CliRunner().invoke(main, ["verify", str(model), small, *said[2:]])
    assert (done.exit_code, done.output) == (
        2,
        "hwpass: --input has no effect without --calib: give that, or leave it out\n",
    )
    assert json.loads(path.read_text(encoding="utf-8"))["model"]["type"] == "WordLevel"


def test_lines_end_as_they_may(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"the cat\r\na dog\rran\n")
    assert list(reader._lines([tmp_path / "x.txt"], "x.txt")) == ["the cat", "a dog\rran"]
