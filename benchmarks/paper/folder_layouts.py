"""What is downloaded of the sets of large images, as the folders that fedwon reads: `<domain>/<class>/<image>`.

Each function takes the folder of the downloads and the folder to write to. Files are written under names of our own
making out of an archive's last three path parts, never where the archive says.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from benchmarks.paper.sources import SOURCES
from benchmarks.paper.unpacking import members
from fedwon.client.images.listing import is_image
from fedwon.common.errors import BrokenFile

DOMAINNET_CLASSES = frozenset(
    ("bird", "feather", "headphones", "ice_cream", "teapot", "tiger", "whale", "windmill", "wine_glass", "zebra")
)
"""The ten of DomainNet's 345 classes that FedBN and FedWon use (FedBN, utils/data_utils.py)."""

CENTRES: Mapping[str, str] = MappingProxyType(
    {"0": "bcn", "1": "vidir_molemax", "2": "vidir_modern", "3": "rosendahl", "4": "msk", "5": "vienna_dias"}
)
"""Fed-ISIC2019's centres by FLamby's number, in the order of its README."""

LESIONS = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
"""Fed-ISIC2019's classes in the order of FLamby's targets 0 to 7."""

_SHORT_SIDE = 224
_NORM = 6


def office_caltech_10(downloads: Path, target: Path) -> None:
    """Office-Caltech-10: four domains of ten classes, file for file; `Caltech` becomes `caltech`."""
    _unpack(downloads / SOURCES["office_caltech_10"].files[0].name, target / "office_caltech_10")


def domainnet(downloads: Path, target: Path) -> None:
    """DomainNet: six domains, of which the ten classes of the protocol are unpacked."""
    for file in SOURCES["domainnet"].files:
        _unpack(downloads / file.name, target / "domainnet", DOMAINNET_CLASSES)


def _unpack(archive: Path, target: Path, classes: frozenset[str] = frozenset()) -> None:
    """Write the images `.../<domain>/<class>/<name>` of an archive; of these classes only, where any is given."""
    for member in members(archive):
        domain, label, name = ("", "", "", *member.path.parts)[-3:]
        if is_image(Path(name)) and domain and (not classes or label in classes):
            path = target / domain.lower() / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(member.read())


def fed_isic2019(downloads: Path, target: Path) -> None:
    """Fed-ISIC2019: six centres, each parted into `train/` and `test/` by FLamby's list; eight classes.

    The images are prepared as FLamby's resize_images.py does: short side 224, bilinear, then colour constancy; jpg.

    Raises:
        BrokenFile: the list names an image that is not there, or is not FLamby's.
    """
    archive, split = (downloads / file.name for file in SOURCES["fed_isic2019"].files)
    left = _places(split)
    for member in members(archive):
        place = left.pop(member.path.stem, None) if member.path.suffix == ".jpg" else None
        if place:
            path = target / "fed_isic2019" / place / member.path.name
            path.parent.mkdir(parents=True, exist_ok=True)
            prepared(member.read()).save(path)
    if left:
        raise BrokenFile(
            f"{archive} lacks {len(left)} images of {split.name}, {min(left)} the first.",
            hint="Delete it and download it again.",
        )


def _places(split: Path) -> dict[str, Path]:
    """Folder of each image of FLamby's list, by the image's name: `<centre>/<part>/<class>`."""
    try:
        with split.open(encoding="utf-8", newline="") as file:
            return {
                row["image"]: Path(CENTRES[row["center"]], {"train": "train", "test": "test"}[row["fold"]])
                / LESIONS[int(row["target"])]
                for row in csv.DictReader(file)
            }
    except (KeyError, ValueError, IndexError, UnicodeDecodeError) as error:
        raise BrokenFile(f"{split} is not FLamby's list ({error!r}).", hint="Download it again.") from error


def prepared(content: bytes) -> Image.Image:
    """One image of Fed-ISIC2019: short side 224 px, colours as if under white light.

    Colour constancy is "Shades of Gray" (Finlayson and Trezzi, 2004) with a Minkowski norm of 6, as in FLamby, except
    that values above 255 become 255 where FLamby's wrap around.
    """
    with Image.open(io.BytesIO(content)) as image:
        ratio = _SHORT_SIDE / min(image.size)
        small = image.convert("RGB").resize(
            (int(image.width * ratio), int(image.height * ratio)), Image.Resampling.BILINEAR
        )
    pixels = np.asarray(small, np.float64)
    light = (pixels**_NORM).mean(axis=(0, 1)) ** (1 / _NORM)
    gain = np.linalg.norm(light) / (np.maximum(light, 1e-6) * np.sqrt(3))
    return Image.fromarray(np.clip(pixels * gain, 0, 255).astype(np.uint8))
