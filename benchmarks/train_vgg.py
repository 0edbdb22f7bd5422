"""Train VGG-16 on the fixtures' task, for benchmarks that want a trained network of its kind.

    pip install -e '.[dev,peers]'
    python benchmarks/train_vgg.py vgg16.onnx [--images 24000] [--epochs 1] [--threads 2]

The thirteen convolutions of configuration D (Simonyan and Zisserman, 2015) with batch normalisation, which the export
folds, and its classifier for small images, 512-512-10. The maps are 28x28, so that the last of the five poolings has
nothing left to halve and goes. Needs the Debian package `dataset-fashion-mnist`; the file (60 MB) is not committed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from fixtures.train import DEBIAN_DATA, Fixture, Split, export, load_split, measure, train

#: Channels of the convolutions; M halves the maps.
CONFIGURATION_D = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)


def vgg16() -> nn.Module:
    """image [batch, 1, 28, 28] -> logits [batch, 10]."""
    layers: list[nn.Module] = []
    channels = 1
    for width in CONFIGURATION_D:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    classifier = (nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    return nn.Sequential(*layers, nn.Flatten(), *classifier)


def main() -> None:
    """Train on the first images of the training set, and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--images", type=int, default=24000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", type=Path, default=DEBIAN_DATA)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    whole, test = load_split(options.data, "train"), load_split(options.data, "t10k")
    model, recipe = vgg16(), Fixture(vgg16, dynamo=False, rate=2e-3, epochs=options.epochs)
    train(model, Split(whole.image[: options.images], whole.label[: options.images]), recipe, recipe.epochs)
    export(model, recipe, options.output)
    print(measure(model, options.output, test))


if __name__ == "__main__":
    main()
