"""What a model may be read from."""

from __future__ import annotations

import os
from typing import BinaryIO

import onnx

Source = str | os.PathLike[str] | bytes | onnx.ModelProto | BinaryIO
