"""A search as an SVG picture: what the terminal shows, with the question's pictures at the upper right."""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps
from rich.console import Console

from cos.clients.terminal import printable, show_solution
from cos.wire.reply import Solution

MOST_COLUMNS = 110
IMAGE_COLUMNS, IMAGE_LINES = 26, 13
"""The place of the question's picture, in characters."""
COLUMN_PX, LINE_PX = 12.2, 24.4
"""Those of rich's SVG."""
MOST_IMAGE_PX = 640
"""A larger picture is made smaller: it is shown at half of this size."""
MARGIN_PX = 18
TOP_PX = 50
"""Below the title."""


def draw_solution(path: Path, title: str, solution: Solution, images: Sequence[bytes], *, tree: bool) -> None:
    """Draws tree, winning chain, answer and cost. ``images``: the files of the pictures that were asked about."""
    lines = _drawn(solution, MOST_COLUMNS, tree=tree).export_text(clear=False).splitlines()
    beside = max(map(len, (line.rstrip() for line in lines[: IMAGE_LINES + 2])), default=0)
    columns = max(*(len(line.rstrip()) for line in lines), beside + len(images) * (IMAGE_COLUMNS + 3))
    drawn = _drawn(solution, columns, tree=tree).export_svg(title=printable(title))
    # A picture that loads nothing from anywhere: the viewer's own fixed-width font will do.
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    shown = "".join(_image(image, drawn, place) for place, image in enumerate(reversed(images)))
    path.write_text(drawn.replace("</svg>", f"{shown}</svg>"), encoding="utf-8")


def _drawn(solution: Solution, columns: int, *, tree: bool) -> Console:
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True)
    show_solution(console, solution, tree=tree)
    return console


def _image(image: bytes, drawn: str, place: int) -> str:
    """A picture as an element of a drawing, whole and in its own proportions. ``place``: counted from the right."""
    width = IMAGE_COLUMNS * COLUMN_PX
    right = float(re.findall(r'viewBox="0 0 ([\d.]+) ', drawn)[0]) - place * (IMAGE_COLUMNS + 3) * COLUMN_PX
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(image)) as opened:
        small = ImageOps.exif_transpose(opened).convert("RGB")
    small.thumbnail((MOST_IMAGE_PX, MOST_IMAGE_PX))
    small.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<image x="{right - width - MARGIN_PX:g}" y="{TOP_PX}" width="{width:g}" height="{IMAGE_LINES * LINE_PX:g}" '
        f'preserveAspectRatio="xMaxYMin meet" href="data:image/png;base64,{data}"/>\n'
    )
