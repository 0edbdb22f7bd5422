"""Real trained models from packages through `hwpass run --target mobile-cpu --latency 0.8x --score l2`.

    pip install --no-deps rapidocr-onnxruntime==1.4.4 --target A
    pip install --no-deps rapidocr==3.10.0 silero-vad==6.2.3 --target B
    pip install --no-deps magika ddddocr nudenet basic-pitch ... --target B     # benchmarks/README.md has the list
    python benchmarks/real_models.py A B

The packages are only unpacked (`--no-deps`): their models are read, their code is not run. Files of equal content are
run once.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

from common import show

import hwpass


def main() -> None:
    """Prune every ONNX file below the folders and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--target", default="mobile-cpu")
    parser.add_argument("--latency", default="0.8x")
    options = parser.parse_args()
    rows = []
    found = {path: folder for folder in options.folders for path in sorted(folder.rglob("*.onnx"))}
    first = {hashlib.sha256(path.read_bytes()).digest(): path for path in reversed(found)}
    for path in (p for p in found if p in first.values()):
        name = f"{path.relative_to(found[path]).parts[0]}/{path.name}"
        start = time.perf_counter()
        try:
            report = hwpass.run(path, options.target, latency=options.latency, score="l2").report
        except hwpass.HwpassError as error:
            rows.append([name, "-", "-", "-", f"{time.perf_counter() - start:.1f}", str(error)[:110]])
            continue
        exact = report.verdicts.exactness
        frozen = "; ".join(dict.fromkeys(f.reason for f in report.frozen))[:110]
        rows.append(
            [
                name,
                f"{report.ratio.latency:.3f}",
                f"{report.ratio.macs:.3f}",
                f"{exact.max_rel:.1e}" if exact else "-",
                f"{time.perf_counter() - start:.1f}",
                frozen,
            ]
        )
    show(
        f"--target {options.target} --latency {options.latency} --score l2",
        ["model", "latency", "MACs", "exactness", "seconds", "frozen, or why not"],
        rows,
    )


if __name__ == "__main__":
    main()
