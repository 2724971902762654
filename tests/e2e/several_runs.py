"""A server for several runs, one after the other: `python -m tests.e2e.several_runs DIR RUN.yaml...`.

What `fedwon-server start --run` does for one file, done for each in turn in one process with the same sites connected:
starting the command anew takes seconds of PyTorch each time, and the sites' growing pauses besides.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from fedwon.common import logs
from fedwon.common.config import load
from fedwon.common.run_config import RunConfig
from fedwon.server.link.grid import GrpcGrid
from fedwon.server.link.hub import Hub
from fedwon.server.operating import run_server
from fedwon.server.runs.federating import federate
from fedwon.server.serving import Home


def main() -> None:
    folder, *files = map(Path, sys.argv[1:])
    logs.setup("text", "info")
    home, configs = Home.open(folder), [load(RunConfig, file) for file in files]

    async def work(hub: Hub) -> None:
        loop = asyncio.get_running_loop()
        for config in configs:
            grid = GrpcGrid(hub, loop, config.participation)
            await asyncio.to_thread(federate, grid, config, home.store, home.folder)

    run_server(home, work)


if __name__ == "__main__":
    main()
