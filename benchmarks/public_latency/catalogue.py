"""Which networks of the public tables can be rebuilt, by the names that the tables give them."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from public_latency import attention as at
from public_latency import convolutional as cv
from public_latency import dense_output as do
from public_latency import inception as ic
from public_latency.net import Map, Net

Build = Callable[[Net], list[Map]]

_LITE = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2), 3: (1.2, 1.4), 4: (1.4, 1.8)}
_EFFICIENT = {**_LITE, 5: (1.6, 2.2), 6: (1.8, 2.6), 7: (2.0, 3.1)}
_EDGE = {"s": (1.0, 1.0), "m": (1.0, 1.1), "l": (1.2, 1.4)}
_VIT = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
_SWIN = {"tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)), "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
         "base": (128, (2, 2, 18, 2), (4, 8, 16, 32))}  # fmt: skip
_CONVNEXT = {"tiny": ((3, 3, 9, 3), (96, 192, 384, 768)), "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
             "base": ((3, 3, 27, 3), (128, 256, 512, 1024))}  # fmt: skip
_FFNET = {"40s": (4, 5, 6, 4), "54s": (5, 8, 8, 5), "78s": (6, 12, 12, 8), "86s": (8, 12, 16, 6)}


def _resnet(depth: int, **options: int) -> Build:
    return partial(cv.resnet, depths=cv.DEPTHS[depth], bottleneck=depth >= 50, **options)  # type: ignore[arg-type]


def _dilated(depth: int, pyramid: bool) -> Build:
    def build(net: Net) -> list[Map]:
        maps = _resnet(depth, classes=0, stride=8)(net)
        do.atrous_head(net, maps[-1], pyramid=pyramid)
        return maps

    return build


def _fixed() -> dict[str, Build]:
    """Networks by one name each."""
    found: dict[str, Build] = {
        "mobilenet_v1": cv.mobilenet_v1,
        "mobilenet_v3": partial(cv.inverted, stages=cv.MOBILENET_V3_LARGE, stem=16, head=960, hidden=1280),
        "mobilenet_v3_large": partial(cv.inverted, stages=cv.MOBILENET_V3_LARGE, stem=16, head=960, hidden=1280),
        "mobilenet_v3_small": partial(cv.inverted, stages=cv.MOBILENET_V3_SMALL, stem=16, head=576, hidden=1024),
        "mnasnet05": partial(cv.inverted, stages=cv.MNASNET, width=0.5),
        "mnasnet": partial(cv.inverted, stages=cv.MNASNET),
        "efficientnet_v2_s": partial(cv.inverted, stages=cv.EFFICIENTNET_V2_S, stem=24),
        "inception_v1": cv.googlenet,
        "googlenet": cv.googlenet,
        "inception_v3": ic.inception_v3,
        "inception_v4": ic.inception_v4,
        "inception_resnet_v2": ic.inception_resnet_v2,
        "densenet121": partial(cv.densenet, depths=(6, 12, 24, 16)),
        "densenet": partial(cv.densenet, depths=(6, 12, 24, 16)),
        "squeezenet": partial(cv.squeezenet, old=True),
        "squeezenet_v1.1": cv.squeezenet,
        "squeezenet1_1": cv.squeezenet,
        "shufflenet_v2": partial(cv.shufflenet_v2, widths=(48, 96, 192, 1024)),
        "vgg16": partial(cv.vgg, depths=(2, 2, 3, 3, 3)),
        "vgg19": partial(cv.vgg, depths=(2, 2, 4, 4, 4)),
        "resnext50_32x4d": _resnet(50, base=128, groups=32),
        "resnext50": _resnet(50, base=128, groups=32),
        "resnext101": _resnet(101, base=256, groups=32),
        "resnext26_32x4d": partial(cv.resnet, depths=(2, 2, 2, 2), base=128, groups=32),
        "wideresnet50": _resnet(50, base=128),
        "seresnet50": _resnet(50, squeeze=16),
        "cavaface": partial(cv.resnet, depths=(3, 13, 30, 3), bottleneck=False, classes=512, squeeze=16, first=False),
        "arcface_r50": partial(cv.resnet, depths=(3, 4, 14, 3), bottleneck=False, classes=512, first=False),
        "face_attr_resnet_v1_18": _resnet(18, classes=40),
        "tddfa_mobilenet_v1": partial(cv.mobilenet_v1, classes=62),
        "yamnet": partial(cv.mobilenet_v1, classes=521),
        "ssd_mobilenet_v2": do.ssd,
        "ssd_mobilenet_v1": partial(do.ssd, backbone="v1", lite=False),
        "mobilenet_v2_ssd": do.ssd,
        "ssd_mobilenet_v2_face_quant_postprocess": partial(do.ssd, classes=2),
        "deeplab_v3": do.deeplab_v3,
        "deeplabv3_plus_mobilenet": do.deeplab_v3,
        "unet_mv2": do.unet_mobilenet,
        "unet_segmentation": do.unet,
        "deeplabv3_resnet50": _dilated(50, True),
        "deeplabv3_resnet101": _dilated(101, True),
        "fcn_resnet50": _dilated(50, False),
        "yolov3": do.yolov3,
        "yolov3_gluon": do.yolov3,
        "yolov3_416": do.yolov3,
        "yolov3_gluon_416": do.yolov3,
        "tiny_yolov3": partial(do.yolov3, tiny=True),
        "yolox_s_leaky": partial(do.yolox, size="s", act="LeakyRelu"),
        "yolox_l_leaky": partial(do.yolox, size="l", act="LeakyRelu"),
        "beit": partial(at.vit, dim=768, depth=12, heads=12),
        "convnext_tiny": partial(at.convnext, depths=_CONVNEXT["tiny"][0]),
        "distil_bert_base_uncased_hf": partial(at.encoder, dim=768, depth=6, heads=12, vocabulary=30522),
        "bert_base_uncased_hf": partial(at.encoder, dim=768, depth=12, heads=12, vocabulary=30522),
        "albert_base_v2_hf": partial(at.encoder, dim=768, depth=12, heads=12, vocabulary=30000),
        "electra_bert_base_discrim_google": partial(at.encoder, dim=768, depth=12, heads=12),
        "nomic_embed_text": partial(at.encoder, dim=768, depth=12, heads=12, ratio=6),
        "espcn_x2": partial(do.plain_sr, n=32, depth=1, scale=2, first=5, colours=1, wide=64),
        "espcn_x3": partial(do.plain_sr, n=32, depth=1, scale=3, first=5, colours=1, wide=64),
        "espcn_x4": partial(do.plain_sr, n=32, depth=1, scale=4, first=5, colours=1, wide=64),
        "dncnn3": partial(do.plain_sr, n=64, depth=18, scale=1, colours=1),
        "dncnn_color_blind": partial(do.plain_sr, n=64, depth=18, scale=1),
        "quicksrnetsmall": partial(do.plain_sr, n=32, depth=2, scale=4),
        "quicksrnetmedium": partial(do.plain_sr, n=32, depth=5, scale=4),
        "quicksrnetlarge": partial(do.plain_sr, n=64, depth=11, scale=4),
        "sesr_m5": do.sesr_expanded,
        "real_esrgan_general_x4v3": partial(do.plain_sr, n=64, depth=32, scale=4),
        "real_esrgan_x4plus": do.rrdb,
        "esrgan": do.rrdb,
    }
    return found


_NAMES = _fixed()


def _families() -> list[tuple[str, Callable[[re.Match[str]], Build]]]:
    """Networks by a pattern of their names."""
    return [
        (r"mobilenet_v2(?:_([\d.]+))?", lambda m: partial(cv.inverted, stages=cv.MOBILENET_V2, width=float(m[1] or 1))),
        (r"mobilenetv2-12", lambda m: partial(cv.inverted, stages=cv.MOBILENET_V2)),
        (r"efficientnet_lite(\d)",
         lambda m: partial(cv.efficientnet, stages=cv.EFFICIENTNET_LITE, **_scale(_LITE[int(m[1])]))),
        (r"efficientnet_b(\d)",
         lambda m: partial(cv.efficientnet, stages=cv.EFFICIENTNET, **_scale(_EFFICIENT[int(m[1])]))),
        (r"efficientnet(?:-edgetpu-|_)([sml])",
         lambda m: partial(cv.efficientnet, stages=cv.EFFICIENTNET_EDGE, **_scale(_EDGE[m[1]]))),
        (r"resnet(?:_v1_)?(18|34|50|101|152)(?:_v[12])?", lambda m: _resnet(int(m[1]))),
        (r"regnet_?([xy])_?([\d.]+[mg]f)", lambda m: partial(cv.regnet, name=f"{m[1]}_{m[2]}")),
        (r"(?:vit|deit)_(tiny|small|base|large)(_bn)?",
         lambda m: partial(at.vit, **_named(_VIT[m[1]], "dim", "depth", "heads"), norms=not m[2])),
        (r"vit", lambda m: partial(at.vit, dim=768, depth=12, heads=12)),
        (r"swin_(tiny|small|base)", lambda m: partial(at.swin, **_named(_SWIN[m[1]], "dim", "depths", "heads"))),
        (r"convnext_(tiny|small|base)", lambda m: partial(at.convnext, **_named(_CONVNEXT[m[1]], "depths", "widths"))),
        (r"ffnet_(40s|54s|78s|86s)(_lowres)?", lambda m: partial(do.ffnet, depths=_FFNET[m[1]], low=bool(m[2]))),
        (r"yolov5([nsmlx])(?:_wo_spp|_bbox_decoding_only)?(_relu)?([-_]seg)?",
         lambda m: partial(do.yolo, version="v5", size=m[1], act="Relu" if m[2] else "Silu", seg=bool(m[3]))),
        (r"yolov8([nsmlx])(?:_bbox_decoding_only)?([-_]seg)?([-_]pose)?",
         lambda m: partial(do.yolo, version="v8", size=m[1], seg=bool(m[2]), pose=17 if m[3] else 0)),
        (r"yolov?11([nsmlx])", lambda m: partial(do.yolo, version="v11", size=m[1])),
        (r"yolox_(tiny|s|m|l)", lambda m: partial(do.yolox, size=m[1])),
    ]  # fmt: skip


def _named(values: tuple[Any, ...], *names: str) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


def _scale(pair: tuple[float, float]) -> dict[str, Any]:
    return {"width": pair[0], "depth": pair[1]}


#: Networks taken from the zoo: by the names of the tables, the graph. Only those whose operations agree with a table's.
ZOO = {
    "fastvit_sa12": "timm_fastvit_sa12", "poolformer_s12": "dyn_timm_poolformer_s12", "r3d_18": "tvvid_r3d_18",
    "nextvit_small": "timm_nextvit_small", "sequencer2d": "timm_sequencer2d_s",
}  # fmt: skip

#: Names that one table alone gives to networks that others call otherwise.
ALIASES = {
    "yolov5": "yolov5m", "yolov8_det": "yolov8n", "yolov8_seg": "yolov8n_seg", "yolov11_det": "yolov11n",
    "yolox": "yolox_s",
}  # fmt: skip
_QUANT = re.compile(r"(_v\d)?_?([\d.]+)?_\d+_quant$")


def find(name: str) -> Build | None:
    """The builder of a network by the name of a table, None when there is none."""
    name = name.strip().lower().rstrip("⭐")
    name = _QUANT.sub(r"\1", name)
    name = ALIASES.get(name, name)
    if name in _NAMES:
        return _NAMES[name]
    for pattern, make in _families():
        match = re.fullmatch(pattern, name)
        if match:
            try:
                return make(match)
            except KeyError:  # a size that is not known of a family that is
                return None
    return None
