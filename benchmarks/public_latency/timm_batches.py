"""Networks of timm in batches, as PyTorch runs them: graphs of the zoo, and networks that the catalogue rebuilds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from hwpass.cost_models.work import Work
from public_latency.catalogue import find
from public_latency.graphs import Zoo
from public_latency.layers import in_format
from public_latency.net import Net

#: What PyTorch's compiler runs as one kernel: elementwise operators in a row; products stay alone.
PYTORCH = [["elementwise"] * 8, ["normalization", *["elementwise"] * 4]]
#: A graph whose multiply-accumulates differ by more than this from the published ones is another network.
SAME = 0.18
#: Names of timm's models, and what the catalogue calls them.
_CATALOGUE = (
    (r"mobilenetv2_(\d)(\d\d)", r"mobilenet_v2_\1.\2"),
    (r"mobilenetv3_(small|large)_100", r"mobilenet_v3_\1"),
    (r"swin_(tiny|small|base)_patch4_window7_224", r"swin_\1"),
    (r"vit_(tiny|small|base)_patch16_224", r"vit_\1"),
    (r"convnext_(tiny|small|base)", r"convnext_\1"),
    (r"tf_(.*)", r"\1"),
    (r"(vgg\d\d)_bn", r"\1"),
)
#: Torchvision's networks in the zoo that timm calls otherwise.
_ZOO = {
    "vit_base_patch16_224": "tv_vit_b_16",
    "vit_large_patch16_224": "tv_vit_l_16",
    "vit_large_patch32_224": "tv_vit_l_32",
    "swin_tiny_patch4_window7_224": "tv_swin_t",
    "swin_small_patch4_window7_224": "tv_swin_s",
    "swin_base_patch4_window7_224": "tv_swin_b",
    "mobilenetv2_100": "tv_mobilenet_v2",
    "mobilenetv3_large_100": "tv_mobilenet_v3_large",
}


class Networks:
    """The work of one image in fp16, by a model's name and side, from the zoo's graphs or from the catalogue."""

    def __init__(self, zoo: Zoo | None) -> None:
        self._zoo = zoo
        self._graphs = set(zoo.names()) if zoo is not None else set()
        self._kept: dict[tuple[str, int], Work | None] = {}

    def work(self, model: str, side: int, gmacs: float) -> Work | None:
        """None for a network that is neither there nor of the published multiply-accumulates, `gmacs` 1e9 of them."""
        key = (model, side)
        if key not in self._kept:
            found = (self._graph(model) if self._zoo is not None else _rebuilt(model, side)) or None
            same = found is not None and (not gmacs or abs(float(found.macs.sum()) / (gmacs * 1e9) - 1) <= SAME)
            self._kept[key] = in_format(separate(found), "fp16") if found is not None and same else None
        return self._kept[key]

    def _graph(self, model: str) -> Work | None:
        name = model.partition(".")[0]
        for graph in (_ZOO.get(name, ""), f"timm_{name}", f"tv_{name}"):
            if graph in self._graphs and self._zoo is not None:
                return self._zoo.work(graph, PYTORCH)
        return None


def _rebuilt(model: str, side: int) -> Work | None:
    """The work of one image in fp32 of a network of the catalogue."""
    names = [model.partition(".")[0]]
    names += [re.sub(pattern, name, names[0]) for pattern, name in _CATALOGUE if re.fullmatch(pattern, names[0])]
    for build in filter(None, map(find, names)):
        net = Net(3, side, side)
        build(net)
        work = net.work()
        moved: dict[str, Any] = {
            name: getattr(work, name) * 4 for name in ("itemsize", "read", "written", "weights", "bytes")
        }
        return replace(work, **moved)
    return None


def separate(work: Work) -> Work:
    """The same work where what follows a product is a kernel of its own that reads and writes the product's output."""
    late = np.flatnonzero((work.macs[0] > 0) & (np.char.find(work.op, "+") >= 0)) if work.op.size else np.zeros(0, int)
    if not len(late):
        return work
    none = np.zeros((len(work.m), len(late)))
    kept = work.elements.copy()
    kept[:, late] = 0.0
    more: dict[str, Any] = {
        "groups": none + 1, "m": none, "n": none, "k": none, "weights": none,
        "read": work.written[:, late], "written": work.written[:, late], "elements": work.elements[:, late],
        "kind": np.full(len(late), "elementwise"), "op": np.array([op.partition("+")[2] for op in work.op[late]]),
        "itemsize": work.itemsize[late], "taps": np.ones(len(late)), "stride": np.ones(len(late)),
        "axes": work.axes[late] if work.axes.size else work.axes,
    }  # fmt: skip
    own = {**{name: getattr(work, name) for name in more}, "elements": kept}
    both: dict[str, Any] = {name: np.concatenate([own[name], more[name]], axis=-1) for name in more}
    return replace(work, **both)


def batched(work: Work, batch: float) -> Work:
    """The work of several images at once: more positions, more elements, the same constants."""
    inner = (work.weights == 0) & (work.kind == "matmul")  # products of activations: more of them, none larger
    return replace(
        work,
        m=work.m * np.where(inner, 1.0, batch),
        groups=work.groups * np.where(inner, batch, 1.0),
        read=work.read * batch,
        written=work.written * batch,
        elements=work.elements * batch,
        bytes=work.bytes * batch,
    )


def rows(lines: Iterator[Mapping[str, str]], networks: Networks) -> Iterator[tuple[Mapping[str, str], Work | None]]:
    """Each line of a GPU with the work of its batch; None for a network that is not known, or without a figure."""
    for line in lines:
        if line["target_class"] != "nvidia-gpu":
            continue
        work = networks.work(line["model"], int(float(line["img_size"] or 224)), float(line["gmacs"] or 0))
        known = work is not None and float(line["step_ms"] or 0) > 0
        yield line, batched(work, float(line["batch_size"])) if work is not None and known else None
