"""The FastAPI example of the documentation works as it is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.programs import free_port

pytest.importorskip("fastapi", reason="FastAPI is not installed")
pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "fastapi.md"

# A process of its own: the example defines its metrics in the registry of the whole process.
DRIVER = """
import main, tachograph
from fastapi.testclient import TestClient

with TestClient(main.app) as client:
    done = {"type": "transport", "seconds": 1.5}
    assert client.post("/api/v1/missions/7/done", json=done).status_code == 201
    wrong = {"type": "x", "seconds": 1}
    assert client.post("/api/v1/missions/8/done", json=wrong).status_code == 422
    assert client.put("/api/v1/config/max_speed?value=2").status_code == 200
    assert client.put("/api/v1/config/max_speed?value=9").status_code == 422
    with client.websocket_connect("/ws/telemetry") as socket:
        socket.send_json({"values": [1, 2, 3], "sent_at": 0})
        assert main.metrics.http.websockets.labels("/ws/telemetry").value == 1
counted = {
    (name, labels): child.value
    for name in ("http_requests", "missions", "config_changes", "config_validation_errors",
                 "telemetry_data_points")
    for labels, child in main.metrics.registry.get(f"oht50_{name}_total").children.items()
}
for key in sorted(counted):
    print(*key, counted[key])
queries = main.metrics.database.duration.children
print(sorted(queries))
"""


def test_the_page_is_what_it_says(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "main.py").write_text(code)
    (tmp_path / "driver.py").write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, "driver.py"],
        cwd=tmp_path,
        env={**os.environ, "TACHOGRAPH_AGENT": f"http://127.0.0.1:{free_port()}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "config_changes ('max_speed',) 1.0",
        "config_validation_errors ('max_speed',) 1.0",
        "http_requests ('POST', '/api/v1/missions/{mission}/done', '201') 1.0",
        "http_requests ('POST', '/api/v1/missions/{mission}/done', '422') 1.0",
        "http_requests ('PUT', '/api/v1/config/{name}', '200') 1.0",
        "http_requests ('PUT', '/api/v1/config/{name}', '422') 1.0",
        "missions ('transport', 'completed') 1.0",
        "telemetry_data_points ('speed', 'drive') 3.0",
        "[('insert', 'mission'), ('other', 'mission')]",
    ]
