"""Commands of the way from a run's model to the lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fedwon.common.console import show_table
from fedwon.common.gates import Figures
from fedwon.common.release import Manifest, Parity, Release
from fedwon.common.version import VERSION
from fedwon.server.commands.options import HOME, AsJson, Folder
from fedwon.server.releases.wish import LIMIT, LIMIT_INT8, Wish
from fedwon.server.serving import Home


def register(app: typer.Typer) -> None:
    """Add these commands to the operator's."""
    for command in (release, promote, hold, rollback, releases):
        app.command()(command)


Sites = Annotated[list[str] | None, typer.Option("--site", help="A site; repeat it for several.")]
Everywhere = Annotated[bool, typer.Option("--all", help="All sites that may take part.")]
SERVED = "sites that are connected hear of it within seconds, the others when they connect"
UNSERVED = "no server runs with this folder: sites hear of it once one does, such as `fedwon-server start --once`"


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
    from fedwon.server.releases.making import make_release

    wish = Wish(run, wanted, name, images, limit, int8, limit_int8)
    made = make_release(home, wish)
    if as_json:
        typer.echo(json.dumps({"version": VERSION, "folder": str(made.folder), **_content(made.manifest)}))
        return
    _show(made)
    typer.echo(f"Next:\n  fedwon-server promote {made.manifest.name} --site SITE --dir {folder}")


def promote(
    name: Annotated[str, typer.Argument(metavar="RELEASE", help="The release's name.")],
    site: Sites = None,
    everywhere: Everywhere = False,
    accuracy: Annotated[float | None, typer.Option(help="Least share of images classified rightly.")] = None,
    defect: Annotated[list[str] | None, typer.Option(help="A class that is a defect; repeat it for several.")] = None,
    escape: Annotated[float | None, typer.Option(help="Largest share of defective parts taken for good.")] = None,
    overkill: Annotated[float | None, typer.Option(help="Largest share of good parts taken for defective.")] = None,
    images: Annotated[int | None, typer.Option(help="Fewest validation images to judge by.")] = None,
    folder: Folder = HOME,
) -> None:
    """Let sites use a release: each measures it on its own validation images, and switches if all gates pass."""
    from fedwon.server.releases import promoting

    home = Home.open(folder)
    shares = {"accuracy": accuracy, "escape": escape, "overkill": overkill}
    gates = {**shares, "images": images, "defects": tuple(defect or ())}
    sites = promoting.promote(home, name, gates, site or [], everywhere=everywhere)
    typer.echo(f"{name} is promoted to {_listed(sites)}; {SERVED if home.served else UNSERVED}")
    typer.echo(f"Look at their answers with:\n  fedwon-server releases --dir {folder}")


def hold(site: Sites = None, everywhere: Everywhere = False, folder: Folder = HOME) -> None:
    """Let sites stay with what they use: an open promotion is withdrawn, and `promote --all` leaves them out."""
    _order("hold", site, everywhere, folder)


def rollback(site: Sites = None, everywhere: Everywhere = False, folder: Folder = HOME) -> None:
    """Let sites go back to the release that they used before, at once and without gates: it is still on their disk."""
    _order("rollback", site, everywhere, folder)


def _order(kind: Literal["hold", "rollback"], site: list[str] | None, everywhere: bool, folder: Path) -> None:
    from fedwon.server.releases.promoting import order

    home = Home.open(folder)
    sites = order(home, kind, site or [], everywhere=everywhere)
    said = {"hold": "held", "rollback": "told to go back to the release before"}[kind]
    typer.echo(f"{_listed(sites)}: {said}; {SERVED if home.served else UNSERVED}")


def _listed(sites: list[str]) -> str:
    return ", ".join(sites) if sites else "no site"


def releases(folder: Folder = HOME, as_json: AsJson = False) -> None:
    """Show the releases, and which of them each site uses and what it said to the newest order."""
    from fedwon.server.releases.orders import by_site
    from fedwon.server.releases.shelves import list_releases

    home = Home.open(folder)
    made, sites = list_releases(home), by_site(home.store)
    if as_json:
        rows = [_content(manifest) for manifest in made]
        typer.echo(json.dumps({"version": VERSION, "releases": rows, "sites": sites}))
        return
    if not made:
        typer.echo("no releases yet: fedwon-server release")
        return
    show_table(("release", "made", "run", "round", "worst site", "in use at"), [_row(one, sites) for one in made])
    if sites:
        show_table(("site", "in use", "order", "release", "state", "figures", "reason"), map(_site_row, sites))


def _row(manifest: Manifest, sites: list[dict[str, Any]]) -> tuple[object, ...]:
    using = [site["site"] for site in sites if site["in_use"] == manifest.name]
    return manifest.name, manifest.made[:19], manifest.run, manifest.round, _worst(manifest), ", ".join(using) or None


def _worst(manifest: Manifest) -> str | None:
    worst = min(manifest.metrics, key=lambda site: manifest.metrics[site].accuracy, default=None)
    return worst and f"{worst} {manifest.metrics[worst].accuracy:.1%}"


def _site_row(site: dict[str, Any]) -> tuple[object, ...]:
    figures = site["figures"] and Figures.model_validate({key: site["figures"][key] for key in Figures.model_fields})
    state = f"waiting since {site['made'][:19]}" if site["state"] == "open" else site["state"]
    return (
        site["site"],
        site["in_use"],
        site["order"],
        site["release"],
        state,
        figures.words() if figures else None,
        site["reason"] or None,
    )


def _content(manifest: Manifest) -> dict[str, Any]:
    return manifest.model_dump(mode="json", exclude={"task"})


def _show(made: Release) -> None:
    manifest = made.manifest
    typer.echo(f"released {manifest.name}: round {manifest.round} of {manifest.run}, in {made.folder}")
    for file, parity in manifest.parity.items():
        typer.echo(f"  {file}: {parity_line(parity)}")
    if manifest.metrics:
        typer.echo(f"  worst of {len(manifest.metrics)} sites: {_worst(manifest)}")


def parity_line(parity: Parity) -> str:
    """Say in words how far an exported model is from the trained one."""
    return (
        f"largest difference {parity.largest_difference:.1e} of outputs up to {parity.largest_output:.3g}, the same "
        f"class for {parity.same_class} of {parity.images} images ({parity.source})"
    )
