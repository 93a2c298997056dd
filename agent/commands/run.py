"""``tachograph run``: the agent in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from .options import Subparsers, add_command, add_config_options, load

if TYPE_CHECKING:
    from ..app import Agent

log = logging.getLogger(__name__)

_EPILOG: Final = """signals:
  SIGTERM, SIGINT  stop: sources first, then requests, then everything is committed;
                   a second one exits at once (nothing acknowledged is lost)
  SIGHUP           load the configuration again, or keep the old one

examples:
  tachograph run
  tachograph run --config tachograph.yml --data /var/lib/tachograph
  tachograph run --set storage.retention.raw=100y --set log.level=debug
  tachograph run --once          collect once, print it, store nothing
"""


def add(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "run", "start the agent", _EPILOG)
    add_config_options(parser)
    parser.add_argument(
        "--once", action="store_true", help="print one collection to stdout and exit"
    )
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    # A SIGHUP that comes while we start must not end us.
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    mask = os.umask(0o077)
    try:
        return _run(args)
    finally:
        os.umask(mask)
        signal.signal(signal.SIGHUP, hangup)


def _run(args: argparse.Namespace) -> int:
    config = load(args)
    if args.once:
        from ..once import print_once

        return asyncio.run(print_once(config, sys.stdout))
    from ..app import Agent
    from ..logs import set_up

    set_up(config.log.level, config.log.format)
    agent = Agent(config, load=lambda: load(args), one_process=True)
    asyncio.run(_serve(agent))
    return 0


async def _serve(agent: Agent) -> None:
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[object]] = set()
    stops = 0

    def stop(name: str) -> None:
        nonlocal stops
        stops += 1
        if stops > 1:
            os._exit(1)
        log.info("%s: stopping; once more exits at once", name)
        agent.request_stop()

    def reload() -> None:
        task: asyncio.Task[object] = asyncio.ensure_future(agent.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, signal.Signals(number).name)
    loop.add_signal_handler(signal.SIGHUP, reload)
    await agent.run()
    await asyncio.gather(*reloads, return_exceptions=True)
