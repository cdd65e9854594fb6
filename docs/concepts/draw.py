"""Draws the pictures of docs/concepts.md: ``python docs/concepts/draw.py`` writes them beside this file.

Colours are those of Okabe and Ito, which people who are colour-blind can tell apart. No meaning hangs on colour alone.
"""

from collections.abc import Iterable
from html import escape
from pathlib import Path

BLUE, GREEN, ORANGE, RED, SKY = "#0072B2", "#009E73", "#E69F00", "#D55E00", "#56B4E9"
INK, GREY, PALE, WHITE = "#222222", "#767676", "#EFEFEF", "#FFFFFF"
WIDTH = 880
FONT = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"


class Sheet:
    """One picture: a title that says its message, and shapes below it. Sizes in pixels, from the top left."""

    def __init__(self, title: str, height: int) -> None:
        self._height = height
        self._title = title
        self._shapes: list[str] = []
        self.text(24, 36, title, size=19, bold=True)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: int = 15,
        colour: str = INK,
        bold: bool = False,
        at: str = "start",
    ) -> None:
        """Words on one line; ``at``: whether x is their start, middle or end."""
        weight = ' font-weight="bold"' if bold else ""
        self._shapes.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{at}"{weight}>'
            f"{escape(words)}</text>"
        )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str = WHITE,
        edge: str = INK,
        dashed: bool = False,
    ) -> None:
        """A rectangle with round corners."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{fill}" stroke="{edge}" '
            f'stroke-width="1.5"{dash}/>'
        )

    def line(self, points: Iterable[tuple[float, float]], *, colour: str = INK, width: float = 1.5) -> None:
        """A line through points."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._shapes.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>')

    def arrow(self, x: float, y: float, to_x: float, to_y: float, *, colour: str = INK) -> None:
        """A straight line that ends in a point."""
        length = ((to_x - x) ** 2 + (to_y - y) ** 2) ** 0.5
        dx, dy = (to_x - x) / length, (to_y - y) / length
        base_x, base_y = to_x - 9 * dx, to_y - 9 * dy
        self.line([(x, y), (base_x, base_y)], colour=colour)
        tip = f"{to_x:g},{to_y:g} {base_x - 5 * dy:g},{base_y + 5 * dx:g} {base_x + 5 * dy:g},{base_y - 5 * dx:g}"
        self._shapes.append(f'<polygon points="{tip}" fill="{colour}"/>')

    def dot(self, x: float, y: float, *, kept: bool, answer: bool = False) -> None:
        """One candidate: filled where it is kept, hollow and crossed where it is dropped; square where it answers."""
        colour = GREEN if answer and kept else BLUE if kept else GREY
        fill = colour if kept else WHITE
        shape = (
            f'<rect x="{x - 7:g}" y="{y - 7:g}" width="14" height="14"'
            if answer
            else f'<circle cx="{x:g}" cy="{y:g}" r="8"'
        )
        self._shapes.append(f'{shape} fill="{fill}" stroke="{colour}" stroke-width="2"/>')
        if not kept:
            self.line([(x - 3.5, y - 3.5), (x + 3.5, y + 3.5)], colour=colour)
            self.line([(x - 3.5, y + 3.5), (x + 3.5, y - 3.5)], colour=colour)

    def ledger(self, x: float, y: float) -> None:
        """The example's picture, as a drawing: a page with two rows."""
        self.box(x, y, 110, 96, fill="#FFFDF5", edge=GREY)
        for row, digits in enumerate(("534", "58")):
            self.text(x + 96, y + 40 + 36 * row, digits, size=25, at="end")
            self.line([(x + 10, y + 48 + 36 * row), (x + 100, y + 48 + 36 * row)], colour=GREY, width=1)

    def svg(self) -> str:
        """The whole picture."""
        body = "\n".join(self._shapes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._height}" role="img" '
            f'font-family="{FONT}">\n<title>{escape(self._title)}</title>\n'
            f'<rect width="{WIDTH}" height="{self._height}" fill="{WHITE}"/>\n{body}\n</svg>\n'
        )


def step() -> Sheet:
    """What a chain is made of."""
    sheet = Sheet("A chain is a row of steps that ends in an answer", 232)
    sheet.ledger(24, 78)
    sheet.text(24, 200, "What is the total", size=14)
    sheet.text(24, 218, "of all rows?", size=14)
    words = (
        ("step 1", "Read row 1:", "Row 1 shows 534."),
        ("step 2", "Read row 2:", "Row 2 shows 58."),
        ("step 3", "Add the ones:", "4 + 8 = 12, ..."),
        ("answer", "592", ""),
    )
    x = 172
    for number, (name, first, second) in enumerate(words):
        width = 88 if name == "answer" else 152
        colour = GREEN if name == "answer" else BLUE
        if number == 3:
            sheet.text(x - 14, 132, "...", size=22, at="middle")
            x += 32
        sheet.arrow(x - 28, 126, x, 126)
        sheet.text(x + width / 2, 78, name, size=14, colour=colour, bold=True, at="middle")
        sheet.box(x, 88, width, 76, edge=colour)
        if second:
            sheet.text(x + 10, 120, first, size=14)
            sheet.text(x + 10, 142, second, size=14)
        else:
            sheet.text(x + width / 2, 134, first, size=20, bold=True, at="middle")
        x += width + 30
    sheet.text(172, 200, "The policy writes one step for each request. Its grammar says where a step ends.", size=14)
    return sheet


def score() -> Sheet:
    """What a PRM score says."""
    sheet = Sheet("The PRM looks at the picture and says how likely each step is right", 250)
    sheet.ledger(24, 96)
    rows = (("Row 1 shows 534.", 0.997, GREEN), ("Row 1 shows 504.", 0.037, RED), ("Row 1 shows 544.", 0.012, RED))
    sheet.text(176, 76, "proposed step", size=14, colour=GREY)
    sheet.text(440, 76, "PRM score, from 0 (wrong) to 1 (right)", size=14, colour=GREY)
    for number, (words, value, colour) in enumerate(rows):
        y = 92 + 44 * number
        sheet.box(176, y, 176, 32, edge=BLUE)
        sheet.text(188, y + 21, words)
        sheet.arrow(356, y + 16, 434, y + 16)
        sheet.box(440, y + 4, 300, 24, fill=PALE, edge=PALE)
        sheet.box(440, y + 4, max(4, 300 * value), 24, fill=colour, edge=colour)
        sheet.text(752, y + 22, f"{value:.3f}", bold=True)
    sheet.text(176, 238, "A chain's score is made from its steps' scores and its answer's score.", size=14)
    return sheet


def _tree(sheet: Sheet, x: float, name: str, about: str, levels: list[list[tuple[float, int, bool]]]) -> None:
    """One small search tree. A level's candidates: place from left to right, parent in the level above, kept."""
    sheet.text(x + 95, 76, name, bold=True, at="middle")
    root = (x + 95, 104)
    above = [root]
    places: list[list[tuple[float, float]]] = []
    for depth, level in enumerate(levels):
        places.append([(x + place, 156 + 48 * depth) for place, _, _ in level])
        for (_, parent, kept), at in zip(level, places[-1], strict=True):
            sheet.line([above[parent], at], colour=BLUE if kept else "#BBBBBB", width=2.5 if kept else 1.2)
        above = places[-1]
    sheet.box(root[0] - 30, root[1] - 12, 60, 24, fill=PALE, edge=GREY)
    sheet.text(*(root[0], root[1] + 5), "question", size=11, at="middle")
    for depth, level in enumerate(levels):
        for (_, _, kept), at in zip(level, places[depth], strict=True):
            sheet.dot(*at, kept=kept, answer=depth == len(levels) - 1)
    for row, words in enumerate(about.split("\n")):
        sheet.text(x + 95, 290 + 19 * row, words, size=13, at="middle")


def strategies() -> Sheet:
    """How strategies differ."""
    sheet = Sheet("A strategy decides which candidates to keep, and where to try more", 372)
    one = [(95.0, 0, True)]
    _tree(sheet, 24, "greedy", "one candidate\nfor each step", [one, one, one])
    spots = (26.0, 72.0, 118.0, 164.0)
    _tree(
        sheet,
        238,
        "best_of_n",
        "whole chains,\nthe best one wins",
        [[(spot, 0 if depth == 0 else index, index == 1) for index, spot in enumerate(spots)] for depth in range(3)],
    )
    _tree(
        sheet,
        452,
        "beam",
        "keeps the best few\nof each level",
        [
            [(26, 0, False), (72, 0, True), (118, 0, True), (164, 0, False)],
            [(26, 1, False), (72, 1, True), (118, 2, False), (164, 2, True)],
            [(26, 1, False), (72, 1, True), (118, 3, False), (164, 3, False)],
        ],
    )
    _tree(
        sheet,
        666,
        "auto",
        "tries more only where\nthe PRM doubts a step",
        [one, [(26, 0, False), (72, 0, False), (118, 0, True), (164, 0, False)], [(118, 2, True)]],
    )
    sheet.dot(220, 350, kept=True)
    sheet.text(236, 355, "kept", size=14)
    sheet.dot(300, 350, kept=False)
    sheet.text(316, 355, "dropped", size=14)
    sheet.dot(408, 350, kept=True, answer=True)
    sheet.text(424, 355, "the answer that wins (a square is an answer)", size=14)
    return sheet


def budget() -> Sheet:
    """How a limit is kept."""
    sheet = Sheet("Tokens are reserved before they are written, so a limit is never passed", 230)
    left, width, total = 24, 780, 1000
    parts = (("written", 0, 430, BLUE, WHITE), ("reserved for requests under way", 430, 800, SKY, INK))
    sheet.text(left, 76, "a limit of 1,000 tokens", size=14, colour=GREY)
    sheet.box(left, 86, width, 46, fill=WHITE, edge=INK)
    for words, start, end, colour, ink in parts:
        sheet.box(left + width * start / total, 86, width * (end - start) / total, 46, fill=colour, edge=INK)
        sheet.text(left + width * (start + end) / 2 / total, 115, words, colour=ink, bold=True, at="middle")
    sheet.text(left + width * 0.9, 115, "free: 200", bold=True, at="middle")
    sheet.box(left + width * 0.8, 148, width * 0.25, 30, edge=RED, dashed=True)
    sheet.text(left + width * 0.925, 168, "needs 250", colour=RED, bold=True, at="middle")
    sheet.text(left, 168, "One more candidate may need 250 tokens. It does not fit and is not started.", size=14)
    sheet.text(
        left, 210, "Where nothing fits any more, the reply is the best chain so far. It names the limit.", size=14
    )
    return sheet


def _bar(sheet: Sheet, y: float, start: float, end: float, words: str, colour: str, *, ahead: bool = False) -> None:
    sheet.box(start, y, end - start, 24, fill=WHITE if ahead else colour, edge=colour, dashed=ahead)
    sheet.text(start + 8, y + 17, words, size=13, colour=INK if ahead else WHITE, bold=not ahead)


def ahead() -> Sheet:
    """What beginning ahead does."""
    sheet = Sheet("Beginning ahead: the next step starts while the slowest candidate still runs", 358)
    for y, words in ((60, "without"), (204, "with")):
        sheet.text(24, y + 46, words, bold=True)
        for row, (name, end) in enumerate((("step 1, A", 300), ("step 1, B", 330), ("step 1, C (slow)", 540))):
            _bar(sheet, y + 30 * row, 130, end, name, BLUE)
    _bar(sheet, 60 + 90, 548, 740, "step 2, after A", GREEN)
    _bar(sheet, 204 + 90, 338, 530, "step 2, after A", GREEN, ahead=True)
    sheet.line([(544, 52), (544, 322)], colour=GREY, width=1)
    sheet.text(552, 238, "C ends: A is still the best.", size=13)
    sheet.text(552, 256, "Its step 2 is there already.", size=13)
    sheet.text(552, 292, "Had C been better, the dashed", size=13, colour=GREY)
    sheet.text(552, 310, "request would be aborted.", size=13, colour=GREY)
    sheet.arrow(130, 340, 740, 340, colour=GREY)
    sheet.text(750, 345, "time", size=13, colour=GREY)
    return sheet


PICTURES = {"step": step, "score": score, "strategies": strategies, "budget": budget, "ahead": ahead}


def main() -> None:
    """Writes every picture."""
    for name, draw in PICTURES.items():
        (Path(__file__).parent / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
