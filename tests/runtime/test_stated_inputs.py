"""What a user says of inputs is read as it was meant, or refused with the mend."""

from __future__ import annotations

import numpy as np
import pytest

import hwpass
from hwpass.runtime.inputs import InputSpec, StatedInput
from hwpass.runtime.stated_inputs import stated_inputs

IMAGE = InputSpec("x:0", np.dtype(np.float32), ("N", 3, 32, 32))
TOKENS = InputSpec("ids", np.dtype(np.int64), ("N", 16))
FEATURES = InputSpec("features", np.dtype(np.float32), ("N", 16))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x:0:range=0..255", StatedInput(range=(0.0, 255.0))),
        ("x:0:range=-1..1,layout=NCHW", StatedInput(range=(-1.0, 1.0), layout="NCHW")),
        ("x:0:mean=0.5,std=0.25", StatedInput(mean=(0.5,), std=(0.25,))),
        ("x:0:std=0.2/0.3/0.4", StatedInput(std=(0.2, 0.3, 0.4))),
        ("ids:range=1e0..29", StatedInput(range=(1.0, 29.0))),
        ("ids:tokenizer=a:b,c.json", StatedInput(tokenizer="a:b,c.json")),
        ("ids:length=64,tokenizer=a=b", StatedInput(length=64, tokenizer="a=b")),
        ("ids:length=64", StatedInput(length=64)),
    ],
)
def test_statements(text: str, found: StatedInput) -> None:
    (known,) = stated_inputs(text, [IMAGE, TOKENS]).values()
    assert known == found
    name = "ids" if text.startswith("ids") else "x:0"
    assert stated_inputs([f"{name}:{known}"], [IMAGE, TOKENS]) == {name: found}


def test_the_name_of_an_only_input_may_be_left_out() -> None:
    assert stated_inputs("range=0..1", [IMAGE]) == {"x:0": StatedInput(range=(0.0, 1.0))}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("range=0..1", "no such input; it has 'x:0', 'ids', 'features'"),
        ("y:range=0..1", "no such input"),
        ("x:0:range=1..0", "the lower first"),
        ("x:0:range=0..1..2", "the lower first"),
        ("x:0:range=0..nan", "finite"),
        ("x:0:range=a..b", "no number"),
        ("x:0:mean=", "no number"),
        ("x:0:mean=0.5,mean=0.5", "each once"),
        ("x:0:", "is not one of"),
        ("x:0:scale=2", "is not one of"),
        ("x:0:std=0", "std is above 0"),
        ("x:0:mean=1/2/3,std=1/2", "one for each channel"),
        ("x:0:range=0..1,std=1", "either a range or mean and std"),
        ("x:0:layout=NCWH", "the layout is NCHW or NHWC"),
        ("ids:layout=NCHW", "it has 2|has 2"),
        ("features:mean=0,std=1", "say the range"),
        ("ids:mean=3", "say the range"),
        ("ids:tokenizer=", "the path of the tokenizer is missing"),
        ("tokenizer=a", "no such input"),
        ("ids:range=0..9,tokenizer=a", "the tokenizer and the length alone"),
        ("ids:range=0..9,length=4", "the tokenizer and the length alone"),
        ("ids:length=0", "at least 1"),
        ("ids:length=a", "no number"),
        ("features:tokenizer=a", r"'features' is float32 of shape \['N', 16\]"),
        ("x:0:length=4", "text becomes integers"),
    ],
)
def test_refusals(text: str, problem: str) -> None:
    with pytest.raises(hwpass.UsageError, match=problem) as caught:
        stated_inputs(text, [IMAGE, TOKENS, FEATURES])
    assert "\n" not in str(caught.value)


def test_one_statement_per_input() -> None:
    with pytest.raises(hwpass.UsageError, match="stated twice"):
        stated_inputs(["x:0:range=0..1", "x:0:layout=NCHW"], [IMAGE])
