"""The image sets of the protocols, as folders of domains with test images set aside.

`digits_five` comes with test files. The folder sets have none: a fixed share is put aside here, by a
hash of the file's content, so that exact copies of an image never stand on both sides. The parts are folders of
symbolic links below the cache folder; the images stay where they are.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / "build" / "benchmarks"
TEST_SHARE = 0.2


def data_home() -> Path:
    """The folder of all sets: `FEDWON_DATA`, or the one beside this checkout."""
    return Path(os.environ.get("FEDWON_DATA", ROOT.parent / "shared" / "data"))


def with_test_part(folder: Path, share: float = TEST_SHARE, cache: Path = CACHE) -> Path:
    """The set with each domain parted into `train/` and `test/`; sets of .npz files are returned as they are.

    Args:
        folder: `<domain>/<class>/<image>`.
        share: of the images that are set aside.
        cache: where the links are made, once.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no image set {folder}; set FEDWON_DATA to the folder that holds the sets.")
    if any(folder.glob("*.npz")):
        return folder
    target = cache / "parted" / f"{folder.name}-{share:g}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=".") as scratch:
            unfinished = Path(scratch) / folder.name
            _part(folder, unfinished, share)
            with suppress(OSError):  # another process was faster; its links are the same
                unfinished.rename(target)
    return target


def _part(folder: Path, target: Path, share: float) -> None:
    for image in sorted(path for path in folder.glob("*/*/*") if path.is_file()):
        domain, label, name = image.parts[-3:]
        link = target / domain / part_of(image.read_bytes(), share) / label / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(image.resolve())


def part_of(content: bytes, share: float = TEST_SHARE) -> str:
    """`test` for the share of contents whose hash is lowest, else `train`."""
    digest = int.from_bytes(hashlib.sha256(b"fedwon test part/" + content).digest()[:8], "big")
    return "test" if digest < share * 2**64 else "train"
