"""Draws the import graph of ARCHITECTURE.md from the contracts: `python -m tests.architecture.drawing`."""

from __future__ import annotations

import configparser
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
DOCUMENT = REPO / "ARCHITECTURE.md"
BEGIN = "<!-- drawn by tests.architecture.drawing from .importlinter -->\n"
END = "<!-- end of the drawing -->\n"
WIDTH = 120  # of the document
GAP = "   "


def draw(contracts: Path) -> str:
    """The layers of every contract as a box, highest first: an import may only point downwards.

    Names between bars know nothing of each other; of names between dots, some import others, never in a circle.
    """
    parser = configparser.ConfigParser()
    parser.read(contracts)
    boxes = [
        _box(options.get("containers", "all packages").strip(), options["layers"].strip().splitlines())
        for options in (parser[section] for section in parser.sections())
        if options.get("type") == "layers"
    ]
    rows: list[list[list[str]]] = [[]]
    for box in boxes:
        if len(GAP.join(each[0] for each in (*rows[-1], box))) > WIDTH:
            rows.append([])
        rows[-1].append(box)
    return "```\n" + "\n".join(_side_by_side(row) for row in rows) + "```\n"


def _box(title: str, layers: list[str]) -> list[str]:
    rows = [layer.strip().replace(" : ", " · ").replace(" | ", " │ ") for layer in layers]
    width = max(len(title), *map(len, rows))
    inside = [f"│ {row:^{width}} │" for row in rows]
    return [f"┌ {title} {'─' * (width - len(title))}┐", *inside, f"└{'─' * (width + 2)}┘"]


def _side_by_side(boxes: list[list[str]]) -> str:
    height = max(map(len, boxes))
    filled = [[*box, *[" " * len(box[0])] * (height - len(box))] for box in boxes]
    return "".join(GAP.join(line).rstrip() + "\n" for line in zip(*filled, strict=True))


def between_marks(text: str) -> str:
    """The drawing as it stands in the document. Raises `ValueError` if a mark is missing."""
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)]


def main() -> None:
    """Put the drawing into the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(text.replace(between_marks(text), draw(REPO / ".importlinter")), encoding="utf-8")


if __name__ == "__main__":
    main()
