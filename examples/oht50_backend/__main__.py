"""``python -m oht50_backend``: the backend in the foreground."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import tempfile
from pathlib import Path

from aiohttp import web

import tachograph

from .instrumentation import Instrumentation
from .service import Service


def main() -> None:
    parser = argparse.ArgumentParser(prog="oht50_backend", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8050)
    parser.add_argument("--database", type=Path, help="file that is made anew (default: temporary)")
    parser.add_argument("--agent", help="the agent's socket or URL")
    parser.add_argument("--pid-file", type=Path, help="written for the agent, which watches us")
    args = parser.parse_args()
    logging.basicConfig(format="oht50_backend: %(message)s")
    logging.getLogger("tachograph.client").setLevel(logging.INFO)  # whether the agent is there
    with contextlib.ExitStack() as stack:
        if args.database is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="oht50-"))
            args.database = Path(folder) / "oht50.db"
        if args.pid_file is not None:
            args.pid_file.write_text(f"{os.getpid()}\n")
            stack.callback(args.pid_file.unlink, missing_ok=True)
        service = Service(args.database, Instrumentation())
        tachograph.connect(args.agent)
        stack.callback(tachograph.disconnect)
        try:
            web.run_app(
                service.application(),
                host=args.host,
                port=args.port,
                access_log=None,
                print=None,
                shutdown_timeout=2,
            )
        except OSError as error:
            sys.exit(f"oht50_backend: {error}; choose another --port")


if __name__ == "__main__":
    main()
