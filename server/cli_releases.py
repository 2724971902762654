"""Commands of the way from a run's model to the lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fedwon.common.release import Manifest, Parity, Release
from fedwon.common.version import VERSION
from fedwon.server.options import HOME, AsJson, Folder
from fedwon.server.serving import Home
from fedwon.server.wishes import LIMIT, LIMIT_INT8, Wish


def register(app: typer.Typer) -> None:
    """Add these commands to the operator's."""
    app.command()(release)


def _round(text: str | None) -> int | str | None:
    if text is None or text == "best":
        return text
    if not text.isdecimal():
        raise typer.BadParameter(f"a number or `best`, not {text!r}", param_hint="--round")
    return int(text)


def release(
    run: Annotated[str | None, typer.Argument(help="A run; the newest without it.", show_default=False)] = None,
    number: Annotated[
        str | None, typer.Option("--round", help="A round, or `best` by validation accuracy; the last without it.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The release's name; RUN-rROUND without it.")] = None,
    images: Annotated[Path | None, typer.Option(help="Images to compare the exported model by: a folder.")] = None,
    limit: Annotated[float, typer.Option(help="Largest difference, as a share of the largest output.", min=0)] = LIMIT,
    int8: Annotated[bool, typer.Option("--int8", help="A quantized model as well; needs real images.")] = False,
    limit_int8: Annotated[
        float, typer.Option(help="Share of images that int8 may put into another class.", min=0, max=1)
    ] = LIMIT_INT8,
    folder: Folder = HOME,
    as_json: AsJson = False,
) -> None:
    """Make a signed release of a run's model: ONNX and safetensors, compared with the trained network."""
    home, wanted = Home.open(folder), _round(number)
    from fedwon.server.releases import make_release

    wish = Wish(run, wanted, name, images, limit, int8, limit_int8)
    made = make_release(home, wish)
    if as_json:
        typer.echo(json.dumps({"version": VERSION, "folder": str(made.folder), **_content(made.manifest)}))
        return
    _show(made)
    typer.echo(f"Next:\n  fedwon-server promote {made.manifest.name} --site SITE --dir {folder}")


def _content(manifest: Manifest) -> dict[str, Any]:
    return manifest.model_dump(mode="json", exclude={"task"})


def _show(made: Release) -> None:
    manifest = made.manifest
    typer.echo(f"released {manifest.name}: round {manifest.round} of {manifest.run}, in {made.folder}")
    for file, parity in manifest.parity.items():
        typer.echo(f"  {file}: {parity_line(parity)}")
    if manifest.metrics:
        worst = min(manifest.metrics, key=lambda site: manifest.metrics[site].accuracy)
        typer.echo(f"  worst of {len(manifest.metrics)} sites: {worst} {manifest.metrics[worst].accuracy:.1%}")


def parity_line(parity: Parity) -> str:
    """Say in words how far an exported model is from the trained one."""
    return (
        f"largest difference {parity.largest_difference:.1e} of outputs up to {parity.largest_output:.3g}, the same "
        f"class for {parity.same_class} of {parity.images} images ({parity.source})"
    )
