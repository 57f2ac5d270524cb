"""One server as a process of its own, asked over HTTP."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusekit.cli.main import run
from tests.export.conftest import Toy, arrays_of

SERVE = """
import sys
from fusekit.cli.main import main
try:
    main()
finally:
    held = {"flax", "optax", "orbax", "ruamel", "fusekit_modules"}
    held |= {"fusekit.config", "fusekit.graph", "fusekit.model", "fusekit.component"}
    print("imported", sorted(held & set(sys.modules)), flush=True)
"""


@dataclass(frozen=True)
class Server:
    process: "subprocess.Popen[str]"
    port: int

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """The status and the answer, JSON or text."""
        made = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            content = body if body is None or isinstance(body, bytes) else json.dumps(body)
            made.request(method, path, content, headers or {})
            answer = made.getresponse()
            text = answer.read().decode()
            is_json = answer.headers["content-type"] == "application/json"
            return answer.status, json.loads(text) if is_json else text
        finally:
            made.close()

    def predict(self, *rows: Any) -> tuple[int, Any]:
        return self.ask("POST", "/v1/predict", {"rows": list(rows)})


@contextmanager
def started(folder: Path, *options: str) -> Iterator[Server]:
    """A server that listens; it may not be ready."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, "serve", str(folder), "--port", "0", *options],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "on http://127.0.0.1:" in line, line
            yield Server(process, int(line.partition("127.0.0.1:")[2].split()[0]))
        finally:
            process.kill()


def until_ready(server: Server) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if server.ask("GET", "/ready")[0] == 200:
            return
        time.sleep(0.05)
    raise AssertionError("the server was not ready within a minute")


@pytest.fixture(scope="module")
def server(toy: Toy) -> Iterator[Server]:
    options = ("--max-batch", "4", "--wait-ms", "1000", "--max-body", "0.05")
    with started(toy.folder, *options) as made:
        assert made.ask("GET", "/health") == (200, {"status": "ok"})
        until_ready(made)
        yield made


def rows_of(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The same rows as a client sends them."""
    rows = []
    for k in range(len(arrays["record"])):
        known = zip(arrays["record"][k].tolist(), arrays["record.mask"][k], strict=True)
        row: dict[str, Any] = {"record": [value if here else None for value, here in known]}
        if arrays["image.presence"][k]:
            row["image"] = arrays["image"][k].tolist()
        if arrays["text.presence"][k]:
            row["text"] = arrays["text"][k][arrays["text.mask"][k]].tolist()
        rows.append(row)
    return rows


def test_answers_are_those_of_the_live_model(toy: Toy, server: Server):
    """Rows that lack optional inputs in every way, together and one by itself."""
    arrays = arrays_of(4, seed=9)
    live = toy.live(arrays)
    rows = rows_of(arrays)
    together = server.predict(*rows)
    assert together[0] == 200, together
    alone = server.predict(rows[1])
    for first, found in ((0, together[1]["rows"]), (1, alone[1]["rows"])):
        for k, row in enumerate(found, first):
            np.testing.assert_allclose(row["kind"], live["kind"][k], rtol=0, atol=1e-5)
            one, other = live["kind"][k].astype("float64")
            assert row["kind.probabilities"][1] == pytest.approx(
                1 / (1 + np.exp(one - other)), abs=1e-5
            )
            assert row["kind.predicted"] == ("cat" if one > other else "dog")
            assert row["words.present"] == bool(live["words.presence"][k])
            if row["words.present"]:
                np.testing.assert_allclose(row["words"], live["words"][k], rtol=0, atol=1e-5)
            else:
                assert row["words"] is None


def test_requests_at_once_share_batches(server: Server):
    def batches() -> tuple[float, float]:
        lines = server.ask("GET", "/metrics")[1].splitlines()
        told = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return float(told["fusekit_batch_rows_count"]), float(told["fusekit_batch_rows_sum"])

    before = batches()
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(server.predict({"record": [0, 1]})[0]))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count, rows = (after - first for after, first in zip(batches(), before, strict=True))
    assert found == [200] * 12
    assert rows == 12
    assert 3 <= count < 12


def test_what_is_refused(server: Server):
    status, found = server.predict({"record": [0, 1], "txet": [1]}, {"image": [[1]]})
    assert (status, found["error"]["code"]) == (422, "invalid")
    first, *_, last = found["error"]["problems"]
    assert first == {
        "path": "rows.0.txet",
        "message": "no such input",
        "found": "txet",
        "expected": "image, text, record",
        "nearest": ["text"],
    }
    assert last["path"] == "rows.1.record"
    for body, expected in (
        (b"{", (400, "malformed")),
        ({"rows": [{"record": [0, 1]}] * 5}, (413, "too_large")),
        (b" " * 60_000, (413, "too_large")),
    ):
        status, found = server.ask("POST", "/v1/predict", body)
        assert (status, found["error"]["code"]) == expected
    plain = {"Content-Type": "text/plain"}
    assert server.ask("POST", "/v1/predict", b"{}", plain)[0] == 415
    assert server.ask("GET", "/v1/predict")[1]["error"]["code"] == "method"
    assert server.ask("GET", "/v1/predcit")[1]["error"]["code"] == "not_found"
    errors = server.ask("GET", "/metrics")[1]
    assert 'fusekit_errors_total{code="malformed"} 1' in errors
    assert 'fusekit_requests_total{status="415"} 1' in errors


def test_a_body_without_a_length_is_limited_too(server: Server):
    """Answered before the body has ended, of which the client sends no more."""
    head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"7530\r\n" + b" " * 0x7530 + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(head + chunk + chunk)
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_what_is_no_http(server: Server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
    assert server.ask("GET", "/health")[0] == 200


def test_the_model_is_described(toy: Toy, server: Server):
    assert server.ask("GET", "/v1/model") == (200, json.loads(toy.manifest.text()))


def test_what_cannot_be_served_is_told(toy: Toy, tmp_path: Path, capfd: Any):
    def failing(message: str, *arguments: object) -> None:
        assert run(["serve", *map(str, arguments)]) == 2
        assert message in capfd.readouterr().err

    failing("is no export: it has no export.json", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failing(f"cannot listen on 127.0.0.1:{port}", toy.folder, "--port", port)
    failing("max-batch", toy.folder, "--max-batch", 0)


def test_a_model_whose_rows_depend_on_each_other(toy: Toy, tmp_path: Path, capfd: Any):
    for file in toy.folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    told = json.loads((tmp_path / "export.json").read_text(encoding="utf-8"))
    (tmp_path / "export.json").unlink()
    text = json.dumps({**told, "coupled": ["experts"]})
    (tmp_path / "export.json").write_text(text, encoding="utf-8")
    assert run(["serve", str(tmp_path)]) == 2
    err = capfd.readouterr().err
    assert "depends on the other rows of its batch (experts)" in err
    assert "--max-batch 1" in err


def test_sigterm_lets_requests_under_way_finish(server: Server):
    """The last of this server: one request waits for others when the signal comes. Nothing of
    training has been imported."""
    found: list[tuple[int, Any]] = []
    asking = threading.Thread(target=lambda: found.append(server.predict({"record": [0, 1]})))
    asking.start()
    while "fusekit_waiting_rows 1" not in server.ask("GET", "/metrics")[1]:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    out, _ = server.process.communicate(timeout=60)
    asking.join()
    assert found[0][0] == 200
    assert server.process.returncode == 0
    assert out == "stopped\nimported []\n"
