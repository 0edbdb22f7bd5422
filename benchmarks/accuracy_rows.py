"""The rows of accuracy.py: kept as JSON lines, so that a run can go on where it was stopped, and shown as tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Rows:
    """A growing file. A row belongs to a network as it is now: those of another version of its file do not count."""

    def __init__(self, path: Path, again: Sequence[str] = ()) -> None:
        self.path = path
        self.rows: list[Row] = []
        if path.exists():
            self.rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        kept = [row for row in self.rows if not any(fnmatchcase(row["method"], glob) for glob in again)]
        if len(kept) != len(self.rows):
            self.rows = kept
            path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")

    def add(self, row: Row) -> None:
        """Append a row to the file at once."""
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def of(self, **wanted: Any) -> list[Row]:
        """The rows with these values."""
        return [row for row in self.rows if all(row.get(key) == value for key, value in wanted.items())]

    def missing(self, points: Iterable[float], **wanted: Any) -> list[float]:
        """The points that have no row with these values."""
        there = {row["point"] for row in self.of(**wanted)}
        return [point for point in points if point not in there]


def cell(row: Row | None) -> str:
    """Accuracy and, in brackets, the measured latency."""
    if row is None:
        return "-"
    if row.get("accuracy") is None:
        return "not met"
    return f"{row['accuracy']:.4f} ({row['latency']:.2f})"


def markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def tables(rows: Rows, networks: dict[str, str]) -> str:
    """All tables as Markdown. `networks` gives the hash of each network's file."""
    current = [r for r in rows.rows if networks.get(r["network"], r["model"]) == r["model"]]
    parts = [
        _compared(current),
        _failures(current),
        _tuned(current),
        _parts(current),
        _predictions(current),
        _bars(current),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _names(rows: Sequence[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def _points(rows: Sequence[Row]) -> list[float]:
    return sorted({row["point"] for row in rows}, reverse=True)


def _pick(rows: Sequence[Row], **wanted: Any) -> Row | None:
    return next((r for r in rows if all(r[key] == value for key, value in wanted.items())), None)


def _compared(rows: Sequence[Row]) -> str:
    parts = []
    compared = [r for r in rows if r["kind"] == "method"]
    for network in sorted(_names(compared, "network")):
        own = [r for r in compared if r["network"] == network]
        points = _points(own)
        lines = []
        for method in sorted(_names(own, "method"), key=lambda name: (not name.startswith("hwpass"), name.split()[0])):
            cells = [cell(_pick(own, method=method, point=point)) for point in points]
            lines.append([f"**{method}**" if method == "hwpass" else method, *cells])
        head = f"{network}: accuracy (measured latency), dense {own[0]['dense']:.4f}"
        parts.append(f"**{head}**\n\n" + markdown(["without training", *(f"{p:g}x" for p in points)], lines))
    return "\n\n".join(parts)


def _failures(rows: Sequence[Row]) -> str:
    found: dict[tuple[str, str, str], list[str]] = {}
    for r in rows:
        if r.get("error"):
            found.setdefault((r["network"], r["method"], r["error"]), []).append(f"{r['point']:g}x")
    lines = [f"- {network}, {method}, {', '.join(points)}: {why}" for (network, method, why), points in found.items()]
    return "Points that were not met:\n\n" + "\n".join(lines) if lines else ""


def _tuned(rows: Sequence[Row]) -> str:
    tuned = [r for r in rows if r["kind"] == "tuned"]
    lines = []
    for network in sorted(_names(tuned, "network")):
        for r in sorted((r for r in tuned if r["network"] == network), key=lambda r: -r["point"]):
            ours = _pick(rows, kind="method", network=network, method="hwpass", point=r["point"])
            before = None if r.get("untuned") is None else f"{r['untuned']:.4f}"
            gap = "-" if not ours or ours.get("accuracy") is None or r.get("accuracy") is None else (
                f"{100 * (ours['accuracy'] - r['accuracy']):+.2f}"
            )  # fmt: skip
            lines.append([network, f"{r['point']:g}x", cell(ours), before or "-", cell(r), gap])
    columns = ["network", "point", "hwpass, no training", "Torch-Pruning L2", "after an epoch", "points ahead"]
    return markdown(columns, lines) if lines else ""


def _parts(rows: Sequence[Row]) -> str:
    """The ablation, with the full method's row first."""
    ablation = [r for r in rows if r["kind"] == "ablation"]
    if not ablation:
        return ""
    columns = [(n, p) for n in sorted(_names(ablation, "network"))
               for p in _points([r for r in ablation if r["network"] == n])]  # fmt: skip
    lines = [["all of hwpass", *(cell(_pick(rows, kind="method", method="hwpass", network=n, point=p))
                                 for n, p in columns)]]  # fmt: skip
    for part in _names(ablation, "method"):
        lines.append([part, *(cell(_pick(ablation, method=part, network=n, point=p)) for n, p in columns)])
    return markdown(["", *(f"{n} {p:g}x" for n, p in columns)], lines)


def _predictions(rows: Sequence[Row]) -> str:
    lines = []
    for r in (r for r in rows if r["kind"] == "prediction"):
        spread = f"{r['latency']:.3f} [{r['low']:.3f}-{r['high']:.3f}]"
        within = "yes" if within_prediction(r) else "no"
        lines.append([r["network"], f"{r['predicted']:.3f}", spread, f"{r['macs']:.3f}", within])
    return markdown(["network", "predicted", "measured", "MACs left", "within 0.42-0.58"], lines) if lines else ""


def within_prediction(row: Row) -> bool:
    """Whether a plan predicted at 0.5x measures between 0.42x and 0.58x."""
    return bool(0.42 <= row["latency"] <= 0.58)


def _bars(rows: Sequence[Row]) -> str:
    """What was hoped for and what was found, point by point."""
    found = [r for r in rows if r["kind"] == "method"]
    said = []
    for ours in (r for r in found if r["method"] == "hwpass"):
        where = f"{ours['network']} at {ours['point']:g}x"
        value = ours.get("accuracy")
        if value is None:
            said.append(f"- {where}: hwpass does not meet it")
            continue
        for other in (r for r in found if r["method"] != "hwpass, no data"):
            same = other["network"] == ours["network"] and other["point"] == ours["point"]
            if same and other is not ours and (other.get("accuracy") or 0.0) >= value:
                said.append(f"- {where}: {other['method']} is not below hwpass, {other['accuracy']:.4f} to {value:.4f}")
        loss = 100 * (ours["dense"] - value)
        allowed = {0.5: (1.0, 2.0), 0.33: (3.0, 5.0)}.get(ours["point"])
        if allowed is not None and loss > allowed[ours["network"] == "vit"] + 1e-9:
            said.append(f"- {where}: loses {loss:.2f} points, the goal is {allowed[ours['network'] == 'vit']:g}")
    for ours in (r for r in found if r["method"] == "hwpass, no data"):
        plain = _pick(found, method="hwpass, l2, no compensation", network=ours["network"], point=ours["point"])
        if plain and (ours.get("accuracy") or 0.0) <= (plain.get("accuracy") or 0.0):
            said.append(f"- {ours['network']} at {ours['point']:g}x: without data not above plain l2")
    for r in (r for r in rows if r["kind"] == "tuned" and r.get("accuracy") is not None):
        own = _pick(found, method="hwpass", network=r["network"], point=r["point"])
        if own and own.get("accuracy") is not None and own["accuracy"] < r["accuracy"] - 0.005:
            said.append(f"- {r['network']} at {r['point']:g}x: more than 0.5 point below the tuned Torch-Pruning L2")
    said += [f"- {r['network']}: predicted {r['predicted']:.3f}, measured {r['latency']:.3f}"
             for r in rows if r["kind"] == "prediction" and not within_prediction(r)]  # fmt: skip
    if not found and not said:
        return ""
    return "Where the goals are missed:\n\n" + "\n".join(said or ["- nowhere"])
