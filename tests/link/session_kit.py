"""Scripts of sessions, and a link that runs until it ends by itself."""

from __future__ import annotations

import asyncio

from tests.link.link_kit import finished, listening, make_link, refuse, saying, welcome

DONE = saying(welcome(), finished())


def drop(messages=()):
    """Say something and end the session."""
    return saying(*messages, then=0)


def turned_down(slug: str, text: str = "No."):
    async def script(server, context):
        await refuse(context, slug, text)

    return script


def run(federation, server, *, seconds=20.0, site=None, **options):
    """Run a link until it ends by itself."""

    async def go():
        async with listening(federation, server) as address, asyncio.timeout(seconds):
            await make_link(address, site or federation.site(), **options).run()

    asyncio.run(go())
