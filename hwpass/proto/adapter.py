"""What hwpass relies on beyond the documented interfaces of graphsurgeon and NumPy: all of it is here.

`tests/proto/test_adapter.py` says what is relied on, and runs on the lowest and the newest versions of both.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter, constant_to_onnx_tensor, dtype_to_onnx


def held(tensor: gs.Constant) -> Any:
    """What a constant holds: an array, or what an array can be made of later. Asking for `values` would make it."""
    return tensor._values


def hold(tensor: gs.Constant, values: NDArray[Any]) -> None:
    """Have a constant hold an array as it is, a memory map too: `values = ...` would look at its bytes."""
    tensor._values = values


def lazy_proto(values: Any) -> TensorProto | None:
    """The protobuf that graphsurgeon's lazy values are read from; None for other values."""
    found = getattr(values, "tensor", None)
    return found if isinstance(found, TensorProto) else None


def identity(tensor: gs.Tensor) -> int | None:
    """Which array a constant holds: copies of a model share them. None for a variable."""
    return id(tensor._values) if isinstance(tensor, gs.Constant) else None


def constant_proto(tensor: gs.Constant) -> TensorProto:
    """A constant as a protobuf."""
    found: TensorProto = constant_to_onnx_tensor(tensor)
    return found


def node_proto(node: gs.Node) -> NodeProto:
    """A node as a protobuf, its bodies included."""
    found: NodeProto = OnnxExporter.export_node(node)
    return found


def element_type(dtype: Any) -> int:
    """ONNX's number of a type."""
    return int(dtype_to_onnx(dtype))


def mapped_file(values: Any) -> Path | None:
    """The file that an array is mapped from; None for an array in memory."""
    name = getattr(values, "filename", None)
    return None if name is None else Path(name)


def mapping(values: Any) -> mmap.mmap | None:
    """The mapping that an array's values lie in; None in memory, as for what numpy computes from a mapped array.

    Such a result is an `np.memmap` by its type alone.
    """
    found = getattr(values, "_mmap", None)
    return found if isinstance(found, mmap.mmap) else None


def release(values: Any) -> None:
    """Let the system take back the pages of an array that is mapped from a file; they are read again when needed."""
    found = mapping(values)
    if found is not None and hasattr(found, "madvise"):
        found.madvise(mmap.MADV_DONTNEED)


def varint(number: int) -> bytes:
    """A number as protobuf writes it: seven bits to a byte, the lowest first.

    >>> varint(1), varint(300)
    (b'\\x01', b'\\xac\\x02')
    """
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
