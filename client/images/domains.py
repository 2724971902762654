"""A folder of domains as one site each: for the demonstration, simulations and benchmarks.

Forms: a sub-folder per domain (each in one of the folder forms of `listing`), an `X.npz` per domain, or a pair
`X_train.npz` and `X_test.npz`. `digits` in place of a folder stands for the four built-in lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedwon.client.config import DataConfig
from fedwon.client.images.digits import line_names
from fedwon.client.images.listing import DIGITS, class_folders, has_parts, image_files
from fedwon.common.errors import DataError, DataMissing

BUILT_IN = "digits"
_TRAIN, _TEST = "_train", "_test"
_FORMS = (
    "Expected one sub-folder per domain with class folders below it, "
    "or .npz files (X.npz, or X_train.npz and X_test.npz)."
)


def discover(folder: Path | str = BUILT_IN, *, only: Sequence[str] | None = None) -> dict[str, DataConfig]:
    """Find the domains of a folder.

    Args:
        folder: a folder of domains, or `digits` for the built-in lines (a folder of that name needs a `./`).
        only: names of the domains wanted; empty for all.

    Returns:
        A site's data by its name, sorted by name; paths are absolute.

    Raises:
        DataMissing: there is no such folder, or no domain of a name in `only`.
        DataError: the folder holds no domain, is one site's data, or a name stands for two domains.
    """
    if str(folder) == BUILT_IN:
        return _only({name: DataConfig(path=f"{DIGITS}{name}") for name in sorted(line_names())}, only or (), BUILT_IN)
    place = Path(folder).resolve()
    if not place.is_dir():
        raise DataMissing(f"There is no folder {place}.", hint=f"Check the path; {BUILT_IN} is the built-in set.")
    _check_many(place)
    folders = _folders(place)
    files = _files(place)
    both = sorted(folders.keys() & files.keys())
    if both:
        raise DataError(f"{place} has `{both[0]}` as a folder and as a file.", hint="Rename one of them.")
    found = {**folders, **files}
    if not found:
        raise DataError(f"{place} holds no domain.", hint=_FORMS)
    return _only({name: found[name] for name in sorted(found)}, only or (), str(place))


def _only(found: dict[str, DataConfig], only: Sequence[str], where: str) -> dict[str, DataConfig]:
    unknown = [name for name in only if name not in found]
    if unknown:
        raise DataMissing(f"{where} has no domain `{unknown[0]}`.", hint=f"It has: {', '.join(found)}.")
    return {name: data for name, data in found.items() if not only or name in only}


def _check_many(place: Path) -> None:
    """Tell a folder of domains from the data of one site, where the classes stand a level higher."""
    single = has_parts(place) or next((folder for folder in class_folders(place) if image_files(folder)), None)
    if single:
        raise DataError(
            f"{place} is the data of one site, its classes stand directly in it.",
            hint=f"Name the folder above it ({place.parent}) if that holds several sites' data, or use it as "
            "`data.path` of a single site.",
        )


def _folders(place: Path) -> dict[str, DataConfig]:
    # a folder without folders in it (`notes/`, `__pycache__/`) is no domain
    return {folder.name: DataConfig(path=str(folder)) for folder in class_folders(place) if class_folders(folder)}


def _files(place: Path) -> dict[str, DataConfig]:
    files = {file.stem: file for file in sorted(place.glob("*.npz"))}
    domains: dict[str, DataConfig] = {}
    for stem, file in files.items():
        name = stem.removesuffix(_TRAIN)
        if stem.endswith(_TEST):
            if stem.removesuffix(_TEST) + _TRAIN not in files:
                raise DataError(f"{file} has no {stem.removesuffix(_TEST)}{_TRAIN}.npz beside it.", hint=_FORMS)
            continue
        if name in domains:
            raise DataError(f"{place} has both {name}.npz and {name}{_TRAIN}.npz.", hint="Rename one of them.")
        test = files.get(f"{name}{_TEST}") if stem.endswith(_TRAIN) else None
        domains[name] = DataConfig(path=str(file), test=str(test) if test else None)
    return domains
