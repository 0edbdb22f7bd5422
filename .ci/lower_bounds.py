"""The lowest versions that setup.cfg declares, as constraints for pip: `lower_bounds.py [EXTRA...]`."""

from __future__ import annotations

import configparser
import re
import sys
from collections.abc import Iterator
from pathlib import Path


def lowest(extras: list[str]) -> Iterator[str]:
    """`name==version` for every requirement of the package and of the extras; exact requirements stay exact."""
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parent.parent / "setup.cfg", encoding="utf-8")
    listed = [setup["options"]["install_requires"], *(setup["options.extras_require"][extra] for extra in extras)]
    for line in "\n".join(listed).split("\n"):
        requirement = line.strip()
        if not requirement or requirement.startswith("%("):
            continue
        found = re.fullmatch(r"([A-Za-z0-9_.-]+)\s*[>=]=\s*([0-9][A-Za-z0-9.]*)", requirement)
        if found is None:
            raise SystemExit(f"setup.cfg: {requirement}: write name>=version, so that the lowest version can be tested")
        yield f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    print("\n".join(lowest(sys.argv[1:])))
