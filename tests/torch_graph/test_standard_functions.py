"""Every operator of the standard and of ONNX Runtime that has a torch function equals what its own cases expect."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
from contrib_cases import contrib_cases
from node_cases import Case, cases
from torch_cases import fed, gap, graph_of, results, single

from hwpass.ops.rule import NoFunction, rules

#: By the type of the first output; the standard's case of a pool at the edge gives four digits.
TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1}

#: Cases that cannot be held against what they expect, and why.
NOT_COMPARED = {
    "test_if_opt": "an optional sequence of sequences",
    "test_optional_has_element_empty_optional_input": "an input that is absent, but named",
    "extra_maxroipool": "neither torch nor the reference implementation has it",
}

#: Uses without a function, by operator: nothing else may be refused.
REFUSED = {
    "Adagrad", "Adam", "Momentum", "FlexAttention",  # of the preview domains, which have no rules
    "Bernoulli", "Multinomial", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike",
    "Dropout",  # in training
    "Scan",  # of operator set 8
    "SequenceMap", "DynamicQuantizeLSTM",
}  # fmt: skip


def _compared(case: Case) -> bool:
    op = case.operator[1]
    # Of pools, large expected values are left out when the cases are made; pictures need another library.
    large = "Pool" in op and any(isinstance(v, np.ndarray) and v.size > 10_000 for _, _, v in case.outputs)
    return not large and op != "ImageDecoder" and case.name not in NOT_COMPARED


def _difference(case: Case, wanted: list[Any], found: list[Any]) -> str:
    kind = str(getattr(wanted[0], "dtype", ""))
    tolerance = TOLERANCE.get(kind, 2e-4)
    for a, b in zip(wanted, found, strict=False):
        if case.operator[0] and kind in ("uint8", "int8"):
            # Runtimes round halves as they please: one step is none.
            if np.abs(a.astype(int) - b.astype(int)).max() > 1:
                return f"{case.name}: more than a step"
        elif gap(a, b) > tolerance:
            return f"{case.name}: {gap(a, b):.2g}"
    return ""


@pytest.mark.filterwarnings("ignore")
def test_functions_give_what_the_standard_expects() -> None:
    wrong: list[str] = []
    equal: Counter[tuple[str, str]] = Counter()
    refused = set()
    for case in filter(_compared, (*cases(), *contrib_cases())):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = results(
                    graph_of(single(case)), {n: fed(v) for n, v in zip(case.node.input, case.values, strict=True) if n}
                )
            except NoFunction:
                refused.add(case.operator[1])
                continue
        problem = _difference(case, [value for _, _, value in case.outputs], found)
        equal[case.operator] += not problem
        wrong += [problem] if problem else []
    assert wrong == []
    assert refused <= REFUSED
    assert len(equal) >= 215


def test_operators_with_rules_have_functions() -> None:
    without = {op for (_, op), rule in rules().items() if not rule.has_function(op)}
    control = {"If", "Loop", "Scan"}
    random = {op for op in REFUSED if op.startswith(("Random", "Bernoulli", "Multinomial"))}
    left_to_the_reference = {
        "BlackmanWindow", "CausalConvWithState", "HammingWindow", "HannWindow", "ImageDecoder", "LinearAttention",
        "MelWeightMatrix", "Optional", "OptionalGetElement", "OptionalHasElement",
        "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer", "Unique",
    }  # fmt: skip
    neither = {
        "BiasDropout", "DynamicQuantizeLSTM", "FastGelu", "GatherBlockQuantized", "MaxRoiPool",
        "QEmbedLayerNormalization", "SequenceMap",
    }  # fmt: skip
    assert without == control | random | left_to_the_reference | neither
