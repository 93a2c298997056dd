"""
A backend of four forked uvicorn workers, for tests: run it as a program.

    python backend_workers.py AGENT WORKERS

Prints its port, then a line for each worker with its pid; a worker that dies is started again.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import tachograph
from tachograph.agent.client.asgi import AsgiMiddleware


async def item(request: Request) -> PlainTextResponse:
    JOBS.labels(str(int(request.path_params["number"]) % 3)).inc(2)
    return PlainTextResponse(str(os.getpid()))


JOBS = tachograph.counter("jobs_total", "Jobs done.", ("kind",))
app = AsgiMiddleware(Starlette(routes=[Route("/items/{number}", item)]), namespace="shop")


def work(listener: socket.socket) -> None:
    config = uvicorn.Config(app, log_level="critical", lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])


def main() -> None:
    # Before the fork, as an application loaded by a master process does.
    tachograph.connect(sys.argv[1], interval_s=0.1)
    JOBS.labels("before the fork").inc()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    listener.set_inheritable(True)
    print(listener.getsockname()[1], flush=True)
    workers: set[int] = set()
    ending = False

    def end(*_: object) -> None:
        nonlocal ending
        ending = True
        for pid in workers:
            os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    while True:
        while not ending and len(workers) < int(sys.argv[2]):
            pid = os.fork()
            if not pid:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                work(listener)
                sys.exit(0)
            workers.add(pid)
            print(pid, flush=True)
        try:
            pid, _ = os.wait()
        except ChildProcessError:
            return
        workers.discard(pid)


if __name__ == "__main__":
    main()
