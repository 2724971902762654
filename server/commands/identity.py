"""Commands about who may take part: `enroll`, `sites`, `audit`, `certificate`, `authority`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from fedwon.common.console import show_table
from fedwon.common.errors import Refused
from fedwon.common.pki import fingerprint, load_authorities
from fedwon.common.version import VERSION
from fedwon.server import report
from fedwon.server.auditing import operator, trail
from fedwon.server.commands.options import HOME, AsJson, Folder
from fedwon.server.serving import Home

sites_app = typer.Typer(help="The sites: who has joined, who may join, who may no longer take part.")
certificate_app = typer.Typer(help="The server's own certificate.", no_args_is_help=True)
authority_app = typer.Typer(help="The authority that signs every certificate.", no_args_is_help=True)

SiteName = Annotated[str, typer.Argument(help="Name of the site, such as press-3.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the operator's."""
    app.command()(enroll)
    app.add_typer(sites_app, name="sites")
    app.command()(audit)
    app.add_typer(certificate_app, name="certificate")
    app.add_typer(authority_app, name="authority")


@sites_app.command("add")
def enroll(
    names: Annotated[list[str], typer.Argument(metavar="SITE...", help="Name of the site, such as press-3.")],
    folder: Folder = HOME,
    hours: Annotated[float, typer.Option(help="How long the token can be used.", min=0.001, max=720)] = 24.0,
    out: Annotated[
        str | None,
        typer.Option(
            help="A file for `fedwon-client join --from`, mode 0600; {site} in it stands for the site's name."
        ),
    ] = None,
    unless_enrolled: Annotated[
        bool, typer.Option("--unless-enrolled", help="Leave out sites that have enrolled already.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the line with which a site joins: address, fingerprint and a single-use token."""
    from fedwon.server.identity.invitations import check_place, invite, write

    if out:
        check_place(out, names)
    for invitation in invite(Home.open(folder), names, hours, unless_enrolled=unless_enrolled):
        if out:
            typer.echo(f"invitation of site {invitation.site}, for {hours:g} hours: {write(invitation, out)}", err=True)
        elif as_json:
            typer.echo(json.dumps({**invitation.model_dump(), "join": invitation.line}))
        else:
            typer.echo(f"On the machine of site {invitation.site}, within {hours:g} hours:", err=True)
            typer.echo(invitation.line)


@sites_app.callback(invoke_without_command=True)
def list_sites(context: typer.Context, folder: Folder = HOME, as_json: AsJson = False) -> None:
    """Show the sites: who has joined, who is connected, what each has."""
    if context.invoked_subcommand is not None:
        return
    home = Home.open(folder)
    rows = report.sites(home.store, served=home.served)
    if as_json:
        typer.echo(json.dumps({"version": VERSION, "sites": rows}))
        return
    if not rows:
        typer.echo("no sites yet: fedwon-server enroll SITE")
        return
    show_table(
        ("site", "state", "last seen", "images", "classes", "version", "certificate"),
        [report.site_row(row) for row in rows],
        title="Sites",
    )
    for row in rows:
        if row["revoked"]:
            typer.echo(f"{row['site']} was revoked at {row['revoked']}: {row['reason']}")
        if row["suspended"]:
            typer.echo(f"{row['site']} is suspended: {row['suspended']}")


@sites_app.command()
def revoke(
    site: SiteName,
    folder: Folder = HOME,
    reason: Annotated[str, typer.Option(help="Why; the site is told, and the audit trail keeps it.")] = "",
) -> None:
    """Refuse a site from now on: its certificates, its tokens, its open session."""
    from fedwon.server.identity.standing import revoke as revoke_site

    revoke_site(Home.open(folder).store, site, reason)
    typer.echo(f"site {site} is revoked; a server that runs ends its session within one heartbeat.")
    typer.echo(f"To let it in again: fedwon-server sites add {site} --dir {folder}")


def audit(
    folder: Folder = HOME,
    site: Annotated[str | None, typer.Option(help="Only what is about this site or address.")] = None,
    last: Annotated[int, typer.Option(help="So many of the newest lines.", min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """Show the audit trail: who did what, and who was refused."""
    lines = trail(Home.open(folder).store, site=site, last=last)
    if as_json:
        typer.echo(json.dumps({"version": VERSION, "audit": lines}))
        return
    if not lines:
        typer.echo("nothing is in the audit trail" + (f" about {site}" if site else ""))
        return
    show_table(
        ("when (UTC)", "who", "what", "about", "times", "detail"),
        [
            (line["at"][:19], line["actor"] or "-", line["action"], line["subject"], str(line["times"]), line["detail"])
            for line in lines
        ],
        title="Audit trail, oldest first",
    )


@certificate_app.command("renew")
def renew_certificate(folder: Folder = HOME) -> None:
    """Give the server a new certificate, for the `names` in server.yaml; one that runs takes it without a restart."""
    from fedwon.server.identity.authorities import renew_server

    home = Home.open(folder)
    ends = renew_server(folder / "pki", home.config.names)
    home.store.audit(
        "server certificate renewed",
        home.config.federation,
        f"for {', '.join(home.config.names)}; until {ends:%Y-%m-%d}",
        actor=operator(),
    )
    typer.echo(f"the server has a new certificate until {ends:%Y-%m-%d}; new connections get it at once")


@authority_app.command("roll")
def roll_authority(folder: Folder = HOME) -> None:
    """Begin to replace the authority: a new one signs, both are trusted, connected sites come for new certificates."""
    from fedwon.server.identity.authorities import roll

    home = Home.open(folder)
    made = roll(folder / "pki")
    home.store.audit("authority rolled", home.config.federation, fingerprint(made.pem), actor=operator())
    typer.echo(f"a new authority signs from now on; its fingerprint is {fingerprint(made.pem)}")
    typer.echo("Sites that connect renew by themselves. When all have, drop the old one:")
    typer.echo(f"  fedwon-server authority retire --dir {folder}")


@authority_app.command("retire")
def retire_authority(
    folder: Folder = HOME,
    force: Annotated[bool, typer.Option("--force", help="Also if sites must then enrol again.")] = False,
) -> None:
    """End the replacement: only the new authority is trusted."""
    from fedwon.server.identity.authorities import retire
    from fedwon.server.identity.standing import holders

    home = Home.open(folder)
    left = holders(home.store, [fingerprint(home.authority.pem)])
    old = load_authorities(folder / "pki")[1:]
    if not old:
        raise Refused("There is one authority only.", hint="`fedwon-server authority roll` begins a replacement.")
    if left and not force:
        raise Refused(
            f"{len(left)} sites have not renewed yet: {', '.join(left)}.",
            hint="Connect them, or revoke them, or use `--force`: they must then enrol again.",
        )
    dropped = retire(folder / "pki", home.config.names)
    detail = f"{', '.join(mark[:16] for mark in dropped)}" + (f"; locked out: {', '.join(left)}" if left else "")
    home.store.audit("authority retired", home.config.federation, detail, actor=operator())
    typer.echo("only the new authority is trusted from now on; the server has a certificate of it")
