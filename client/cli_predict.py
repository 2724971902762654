"""`fedwon-client predict`: the released model on image files; light, for boxes without PyTorch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedwon.common.errors import DataError
from fedwon.common.version import VERSION

if TYPE_CHECKING:
    from fedwon.client.releases.predicting import Prediction, Predictor

HOME = Path("fedwon-site")
Form = Literal["plain", "csv", "json"]


def register(app: typer.Typer) -> None:
    """Add the command to the site's."""
    app.command()(predict)


def predict(
    paths: Annotated[list[Path] | None, typer.Argument(help="Image files, or folders of them.")] = None,
    folder: Annotated[Path, typer.Option("--dir", help="The site's folder.", show_default="fedwon-site")] = HOME,
    release: Annotated[
        Path | None, typer.Option(help="A release's folder, in place of the one in use at the site.")
    ] = None,
    authority: Annotated[
        Path | None,
        typer.Option(help="The federation's ca.pem, for a box that is no site; else the site's own."),
    ] = None,
    watch: Annotated[Path | None, typer.Option(help="A folder: say what every image is that comes into it.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="A table with a column for each class.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for machines; with --watch an object a line.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Use the quantized model of the release.")] = False,
    threads: Annotated[int | None, typer.Option(help="Processor threads; all without it.", min=1)] = None,
) -> None:
    """Say what is in images with the released model: label and probability. No server and no PyTorch are needed."""
    if bool(paths) == bool(watch):
        raise typer.BadParameter("name image files, or a folder with --watch", param_hint="PATHS")
    if as_csv and as_json:
        raise typer.BadParameter("one of the two", param_hint="--csv, --json")
    from fedwon.client.releases.predicting import Predictor, find_images, trusted_release
    from fedwon.client.releases.shelf import Shelf

    found = find_images(paths or [])
    form: Form = "json" if as_json else "csv" if as_csv else "plain"

    def _load() -> Predictor:
        shelf = Shelf(folder) if release is None else None
        return Predictor(trusted_release(folder, release, authority), int8=int8, threads=threads, shelf=shelf)

    if watch:
        _watch(watch, _load, form)
        return
    predictor = _load()
    unreadable = _show(predictor, predictor.predict(found), form)
    if unreadable:
        raise DataError(f"Files that could not be read: {unreadable} of {len(found)}; each is named above.")


def _show(predictor: Predictor, predictions: Iterable[Prediction], form: Form) -> int:
    """Print all; return how many files could not be read."""
    if form == "json":
        rows = [prediction.as_dict(predictor.classes) for prediction in predictions]
        typer.echo(json.dumps({"version": VERSION, "release": predictor.release, "predictions": rows}))
        return sum("error" in row for row in rows)
    if form == "csv":
        typer.echo(_csv_line(["path", "label", "probability", *predictor.classes, "error"]))
    return sum(_show_line(predictor, prediction, form) for prediction in predictions)


def _show_line(predictor: Predictor, prediction: Prediction, form: Form) -> bool:
    """Print one; return whether its file could not be read."""
    typer.echo(_line(predictor, prediction, form))
    return bool(prediction.error)


def _line(predictor: Predictor, prediction: Prediction, form: Form) -> str:
    if form == "json":
        return json.dumps({"release": predictor.release, **prediction.as_dict(predictor.classes)})
    if form == "plain":
        said = prediction.error and f"cannot be read: {prediction.error}"
        return f"{prediction.path}: {said or f'{prediction.label} {prediction.probability:.1%}'}"
    shares = [f"{share:.6f}" for share in prediction.probabilities] or [""] * len(predictor.classes)
    named = [prediction.label, f"{prediction.probability:.6f}" if prediction.label else ""]
    return _csv_line([str(prediction.path), *named, *shares, prediction.error])


def _csv_line(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()


def _watch(place: Path, load: Callable[[], Predictor], form: Form) -> None:
    """Print a line for every image that comes, until Ctrl-C; a release that the site switches to is taken up."""
    from fedwon.client.releases.predicting import arrivals

    predictor = load()
    if form == "csv":
        typer.echo(_csv_line(["path", "label", "probability", *predictor.classes, "error"]))
    for paths in arrivals(place):
        if paths and predictor.outdated():
            predictor = load()
        for prediction in predictor.predict(paths):
            _show_line(predictor, prediction, form)
