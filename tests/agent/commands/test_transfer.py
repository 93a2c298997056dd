"""``tachograph import`` and ``export``, with an agent and without one, and with real peers."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import Running, running
from support.programs import free_port, get, started
from support.store import ALL_MS, Samples, bits, unpack
from tachograph.agent.cli import main
from tachograph.agent.commands.progress import Progress
from tachograph.storage.frame import STALE_NAN
from tachograph.storage.model import Labels
from tachograph.storage.offline import OfflineStore

START_S = 1_767_571_200
FOR_EVER = ("--set", "storage.retention.raw=100y")
VICTORIA = shutil.which("victoria-metrics")
PROMTOOL = shutil.which("promtool")
JOBS = Labels.of({"job": "shop"}, "jobs_total")
ODD = Labels.of({"ключ": 'a"b', "le ": "{}"}, "http.requests")


def history(name: str = "jobs_total", steps: int = 20) -> str:
    """JSON lines of two series, a minute apart; every tenth value of one says that it ended."""
    times = [(START_S + 60 * step) * 1000 for step in range(1, steps + 1)]
    odd = [None if not step % 10 else step / 8 for step in range(1, steps + 1)]
    lines: list[Mapping[str, Any]] = [
        {
            "metric": {"__name__": name, "job": "shop"},
            "values": list(range(steps)),
            "timestamps": times,
            "type": "counter",
        },
        {"metric": dict(ODD), "values": odd, "timestamps": times},
    ]
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def stored(directory: Path) -> Samples:
    with OfflineStore(directory) as store:
        return unpack(store.querier.select((), *ALL_MS))


EXPECTED: Samples = {
    JOBS: {(START_S + 60 * (step + 1)) * 1000: bits([float(step)])[0] for step in range(20)},
    ODD: {
        (START_S + 60 * step) * 1000: bits([STALE_NAN if not step % 10 else step / 8])[0]
        for step in range(1, 21)
    },
}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("agent"), *FOR_EVER) as agent:
        yield agent


def test_history_goes_through_an_agent_and_back(
    agent: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text(history())
    for _ in range(2):  # again, and it is the same
        assert main(["import", str(file), "--url", agent.url]) == 0
        captured = capsys.readouterr()
        assert captured.out.startswith("40 samples stored in ")
        assert captured.out.endswith("; 1 days compacted\n")
        assert captured.err == ""
    assert main(["query", "count(jobs_total) + count({'http.requests'})", "--url", agent.url]) == 0
    match = ["--match", "jobs_total", "--match", '{"http.requests"}', "--url", agent.url]
    for name in ("all.jsonl.gz", "all.csv"):
        out = tmp_path / name
        assert main(["export", "-o", str(out), *match]) == 0
        assert out.read_bytes().startswith(b"\x1f\x8b" if name.endswith(".gz") else b"metric,")
        copy = tmp_path / f"copy of {name}"
        assert main(["import", str(out), "--db", str(copy), *FOR_EVER]) == 0
        assert stored(copy) == EXPECTED


def test_an_agent_need_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, file = tmp_path / "data", tmp_path / "packed under another name"
    file.write_bytes(gzip.compress(history().encode()))
    assert main(["import", str(file), "--db", str(data), *FOR_EVER, "-o", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts.pop("seconds") < 60
    assert facts == {"samples": 40, "refused": {}, "badLines": 0, "days": 1, "compactedDays": 1}
    assert stored(data) == EXPECTED
    out = tmp_path / "out.csv"
    window = ["--start", "2026-01-05T00:05:00Z", "--end", str(START_S + 360)]
    assert (
        main(["export", "--db", str(data), "--match", "jobs_total", *window, "-o", str(out)]) == 0
    )
    assert out.read_text().splitlines()[1:] == [
        f'"jobs_total{{job=""shop""}}",counter,{START_S + 300},4.0',
        f'"jobs_total{{job=""shop""}}",counter,{START_S + 360},5.0',
    ]
    assert main(["export", "--db", str(data), "-o", str(tmp_path / "out.om")]) == 0
    assert "2 markers that end a series are left out" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.part"))


def test_a_directory_in_use_is_told_and_what_to_do(
    agent: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(history().encode())))
    assert main(["import", "--db", str(agent.log.parent / "data")]) == 1
    assert "or leave --db out to import through it" in capsys.readouterr().err


def test_what_is_refused_is_told_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(f"{history()}nonsense\n" * 2)
    with running(tmp_path) as short:
        for where in (["--url", short.url], ["--db", str(tmp_path / "other")]):
            assert main(["import", str(file), str(file), *where]) == 1
            captured = capsys.readouterr()
            assert captured.out.startswith("0 samples stored in ")
            refused, *bad = captured.err.splitlines()
            assert refused == (
                "refused: 160 samples: older than the raw retention; raise storage.retention.raw "
                "first, such as by --set storage.retention.raw=100y"
            )
            assert [line.rpartition("bad.jsonl:")[2][:2] for line in bad] == ["3:", "6:"] * 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "a,b\n1,2\n", "the header 'a,b' has not one column each of time"),
        ("a.jsonl.gz", "\x1f\x8b not packed", "cannot be read"),
        ("none/at/all", None, "cannot read"),
    ],
)
def test_files_that_cannot_be_read_are_told(
    agent: Running,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str | None,
    message: str,
) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_bytes(text.encode("latin-1"))
    assert main(["import", str(file), "--url", agent.url]) == 1
    assert message in capsys.readouterr().err


def test_wrong_use_and_missing_agents_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, url = tmp_path / "a.jsonl", f"http://127.0.0.1:{free_port()}"
    file.write_text(history())
    assert main(["import", str(file), *FOR_EVER, "--url", url]) == 2
    assert "go with --db" in capsys.readouterr().err
    assert main(["import", str(file), "--url", url]) == 3
    assert "nothing was stored" in capsys.readouterr().err
    assert main(["export", "--url", url, "-o", str(tmp_path / "out")]) == 3
    assert "read its files with --db DIR" in capsys.readouterr().err
    assert main(["export", "--db", str(tmp_path / "none"), "-o", str(tmp_path / "out")]) == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.jsonl"]


def test_an_export_replaces_files_and_nothing_else(
    agent: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--url", agent.url, "-o", str(tmp_path)]) == 2
    assert "is a directory" in capsys.readouterr().err
    pipe, read = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    assert main(["export", "--url", agent.url, "-o", str(pipe)]) == 0
    reader.join()
    assert pipe.is_fifo(), "it is still what it was"
    assert b'"__name__"' in read[0]
    assert [each.name for each in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize(
    ("name", "options", "is_told"),
    [
        ("x.parquet", [], True),
        ("x.jsonl.zst", [], True),
        ("x.parquet", ["--format", "vm-jsonl"], False),
        ("x.jsonl.gz", [], False),
        ("x.gz", [], False),
        ("x", [], False),
    ],
)
def test_a_name_that_means_another_format_is_told_what_it_gets(
    agent: Running,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    options: list[str],
    is_told: bool,
) -> None:
    path = tmp_path / name
    assert main(["export", "--match", "up", "--url", agent.url, "-o", str(path), *options]) == 0
    told = f"{name} names none of openmetrics, csv, vm-jsonl: vm-jsonl is written"
    assert (told in capsys.readouterr().err) == is_told
    assert path.exists()


@pytest.mark.parametrize("format_", ["openmetrics", "csv", "vm-jsonl"])
def test_an_export_of_nothing_says_so(
    agent: Running, capsys: pytest.CaptureFixture[str], format_: str
) -> None:
    nothing = ["--match", "nothing", "--format", format_, "--url", agent.url]
    assert main(["export", *nothing]) == 0
    assert capsys.readouterr().err == "no samples there\n"


def test_an_import_that_is_stopped_says_how_far_it_came(agent: Running) -> None:
    # As from a terminal: what is started in the background has SIGINT ignored.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        f"from tachograph.agent.cli import main; sys.exit(main(['import', '--url', '{agent.url}']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        # More than a pipe holds: it is reading when this returns.
        process.stdin.write(history("stopped_total") * 2_000)
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read().startswith("tachograph: stopped; ")


@pytest.mark.parametrize("format_", ["openmetrics", "csv", "vm-jsonl"])
def test_formats_are_told_by_their_content(
    agent: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str], format_: str
) -> None:
    main(["import", str(write(tmp_path / "a.jsonl", history("told_total"))), "--url", agent.url])
    match = ["--match", "told_total", "--format", format_, "--url", agent.url]
    out = tmp_path / "no suffix"
    assert main(["export", *match, "-o", str(out)]) == 0
    data = tmp_path / "data"
    assert main(["import", str(out), "--db", str(data), *FOR_EVER]) == 0
    (series,) = stored(data).items()
    assert series == (Labels.of({"job": "shop"}, "told_total"), EXPECTED[JOBS])


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_what_comes_from_a_pipe_is_imported(agent: Running) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tachograph", "import", "--url", agent.url],
        input=history("piped_total").encode(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    exported = subprocess.run(
        [
            sys.executable,
            "-m",
            "tachograph",
            "export",
            "--url",
            agent.url,
            "--match",
            "piped_total",
        ],
        capture_output=True,
        check=True,
    )
    assert len(json.loads(exported.stdout)["values"]) == 20


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_on_a_terminal_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    quiet, terminal = io.StringIO(), Terminal()
    for out in (quiet, terminal):
        progress = Progress(1000, out)
        progress.show(1, 1)  # too soon after the start to be of use
        progress.say("a long line of text")
        progress.say("short")
        progress.clear()
    assert quiet.getvalue() == ""
    assert terminal.getvalue() == ("\ra long line of text\rshort              \r     \r")


# -- real peers --------------------------------------------------------------------------------


@pytest.mark.skipif(VICTORIA is None, reason="victoria-metrics is not installed")
def test_history_goes_to_victoria_metrics_and_comes_from_there(tmp_path: Path) -> None:
    assert VICTORIA is not None
    plain = "".join(line for line in history().splitlines(True) if "jobs_total" in line)
    first, second = tmp_path / "first", tmp_path / "second"
    assert (
        main(["import", str(write(tmp_path / "a.jsonl", plain)), "--db", str(first), *FOR_EVER])
        == 0
    )
    exported = tmp_path / "out.jsonl"
    assert main(["export", "--db", str(first), "-o", str(exported)]) == 0
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        VICTORIA,
        f"-storageDataPath={tmp_path / 'victoria'}",
        f"-httpListenAddr={url.removeprefix('http://')}",
        "-retentionPeriod=100y",
    ]
    with started(command, f"{url}/health", tmp_path / "victoria.log"):
        body = urllib.request.Request(f"{url}/api/v1/import", exported.read_bytes(), method="POST")
        with urllib.request.urlopen(body, timeout=10) as response:
            assert response.status == 204
        get(f"{url}/internal/force_flush")
        _, text = get(f"{url}/api/v1/export?match%5B%5D=jobs_total")
    assert (
        main(["import", str(write(tmp_path / "b.jsonl", text)), "--db", str(second), *FOR_EVER])
        == 0
    )
    assert stored(second) == stored(first) == {JOBS: EXPECTED[JOBS]}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_prometheus_takes_our_openmetrics_for_its_own_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert PROMTOOL is not None
    lines = history() + "".join(
        json.dumps(
            {
                "metric": {"__name__": f"lag_{part}", **labels},
                "values": [1, 2],
                "timestamps": [START_S * 1000, (START_S + 60) * 1000],
                "type": "histogram",
            }
        )
        + "\n"
        for part, labels in (("bucket", {"le": "0.5"}), ("bucket", {"le": "+Inf"}), ("count", {}))
    )
    # Prometheus 2 has no word for other names.
    plain = "".join(line for line in lines.splitlines(True) if "http.requests" not in line)
    data, text = tmp_path / "data", tmp_path / "out.om"
    assert (
        main(["import", str(write(tmp_path / "a.jsonl", plain)), "--db", str(data), *FOR_EVER]) == 0
    )
    assert main(["export", "--db", str(data), "-o", str(text)]) == 0
    blocks = tmp_path / "blocks"
    command = [PROMTOOL, "tsdb", "create-blocks-from", "openmetrics", str(text), str(blocks)]
    subprocess.run(command, check=True, capture_output=True)
    (blocks / "wal").mkdir()  # without one it is no data directory
    dumped = subprocess.run(
        [PROMTOOL, "tsdb", "dump", str(blocks)], check=True, capture_output=True, text=True
    ).stdout
    assert len(dumped.splitlines()) == 26
    assert f'{{__name__="lag_bucket", le="0.5"}} 2 {(START_S + 60) * 1000}' in dumped

    # ... and what it dumps comes back, told by its content.
    back = tmp_path / "back"
    dump = write(tmp_path / "dump.txt", dumped)
    assert main(["import", str(dump), "--db", str(back), *FOR_EVER]) == 0
    assert stored(back) == stored(data)
