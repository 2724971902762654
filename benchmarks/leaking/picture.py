"""What was found, as a picture: a case a row, above the images, below what the attack made of their update."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, uint8

SHOWN = 10
"""Images of a case in the picture."""
_SIDE, _GAP, _TEXT, _SIZE = 56, 6, 330, 15
_ROW = 2 * _SIDE + 3 * _GAP


def draw(pictures: Mapping[str, tuple[Tensor, Tensor]], notes: Mapping[str, str], path: Path) -> None:
    """Draw each case as two lines of images behind its name.

    Args:
        pictures: by case the images and what was found of them, each (N, 1, S, S) from -1 to 1; the first `SHOWN` of
            them are drawn.
        notes: by case, what is written below its name.
        path: the PNG file.
    """
    sheet = Image.new("L", (_TEXT + SHOWN * (_SIDE + _GAP), len(pictures) * _ROW), 255)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_SIZE)
    for row, (name, pair) in enumerate(pictures.items()):
        top = row * _ROW
        pen.text((_GAP, top + _SIDE - _SIZE), f"{name}\n{notes[name]}", fill=0, font=font)
        for line, images in enumerate(pair):
            for column, image in enumerate(images[:SHOWN]):
                sheet.paste(_grey(image), (_TEXT + column * (_SIDE + _GAP), top + line * (_SIDE + 2)))
    sheet.save(path)


def _grey(image: Tensor) -> Image.Image:
    pixels = ((image[0] + 1) * 127.5).round().to(uint8).numpy()
    return Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
