"""A PostgreSQL of its own for tests: made, started on a free loopback port, stopped and removed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from support.programs import free_port

PASSWORD = "pg-s3cret"
_START_S = 30.0


def find_program(name: str) -> str | None:
    """Return the path of one of PostgreSQL's programs; Debian keeps them out of PATH."""
    found = shutil.which(name)
    if found is None:
        places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        found = str(places[-1]) if places else None
    return found


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run a server until the block ends; gives ``postgresql://user:password@host:port/postgres``."""
    initdb, server = find_program("initdb"), find_program("postgres")
    assert initdb is not None
    assert server is not None
    # The server refuses to be root, and pytest's folders are closed to other users.
    user = "postgres" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="tachograph-pg-"))
    try:
        (folder / "password").write_text(PASSWORD)
        if user is not None:
            shutil.chown(folder, user)
            shutil.chown(folder / "password", user)
        data, port = folder / "data", free_port()
        options = ["--pwfile", str(folder / "password"), "--no-sync", "--locale=C", "-E", "UTF8"]
        subprocess.run(
            [initdb, "-D", data, "-U", "tachograph", "-A", "scram-sha-256", *options],
            user=user,
            check=True,
            capture_output=True,
            cwd=folder,
        )
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [server, "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"],
                user=user,
                stdout=log,
                stderr=log,
                cwd=folder,
            )
        try:
            _wait(process, port, folder / "log")
            yield f"postgresql://tachograph:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            process.terminate()
            process.wait(30)
    finally:
        shutil.rmtree(folder)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + _START_S
    while True:
        try:
            psycopg.connect(
                host="127.0.0.1", port=port, user="tachograph", password=PASSWORD, dbname="postgres"
            ).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}") from None
        time.sleep(0.05)
