"""What a server withstands: malformed requests, then a load of minutes; memory before and after.

    python tests/benchmarks/serve.py [--export DIR] [--malformed 10000] [--minutes 3] [--clients 8]

Without `--export` the untrained digits of `configs/base/av_digits.yaml` are exported and served.
Every malformed request must be answered with 4xx, and every other with 200. The last line is JSON.
"""

import argparse
import http.client
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import load, report

from fusekit.export.manifest import Manifest

CONFIG = Path(__file__).parents[2] / "configs" / "base" / "av_digits.yaml"
BODY = 4 << 20
WARM = 10.0
"""Seconds of load before memory is first measured."""
GROWTH = 0.05
"""Memory may grow by so much of itself under load."""


class Client:
    """One connection, opened anew after it was closed."""

    def __init__(self, port: int):
        self.port = port
        self.made: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        if self.made is None:
            self.made = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.made.request(method, path, body)
        answer = self.made.getresponse()
        content = answer.read()
        if answer.will_close:
            self.close()
        return answer.status, content

    def close(self) -> None:
        if self.made is not None:
            self.made.close()
            self.made = None


def exported(folder: Path) -> Path:
    """The untrained digits, as an export for this machine."""
    import fusekit
    from fusekit.export import export

    program = fusekit.compile(fusekit.load(CONFIG))
    export(program, program.init(0), folder, platforms=["cpu"])
    return folder


def row_of(manifest: Manifest, rng: random.Random) -> dict[str, Any]:
    """A row that fits; optional inputs are left out now and then."""

    def numbers(shape: tuple[int, ...], one: Any) -> Any:
        if shape:
            return [numbers(shape[1:], one) for _ in range(shape[0])]
        return rng.randrange(one.classes or 2) if "int" in one.values.dtype else rng.random()

    row: dict[str, Any] = {}
    for one in manifest.inputs:
        if one.presence is None or rng.random() < 0.8:
            row[one.name] = numbers(tuple(map(int, one.values.shape[1:])), one)
            if one.kind == "table":
                row[one.name] = [rng.randrange(c) if c else rng.random() for c in one.cardinalities]
    return row


def malformed(manifest: Manifest, seed: int) -> list[Callable[[random.Random], bytes]]:
    """Ways to spoil a request; each gives a body that must be refused."""
    good = row_of(manifest, random.Random(seed))
    name = next(one.name for one in manifest.inputs if one.presence is None or one.name in good)
    good.setdefault(name, 0)
    text = json.dumps({"rows": [good]})

    def rows(*given: Any) -> bytes:
        return json.dumps({"rows": list(given)}).encode()

    def put(value: Any) -> bytes:
        return rows({**good, name: value})

    def deep(depth: int) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        return value

    return [
        lambda rng: text[: rng.randrange(len(text))].encode(),
        lambda rng: rng.randbytes(rng.randrange(1, 400)),
        lambda rng: text.replace("[", "{", 1 + rng.randrange(3)).encode(),
        lambda rng: b"[" * rng.randrange(1000, 200_000),
        lambda rng: text.encode("utf-16")[rng.randrange(1, 9) :],
        lambda rng: rows({**good, f"{name}{rng.randrange(10**9)}": 1}),
        lambda rng: json.dumps({f"rows{rng.random()}": [good]}).encode(),
        lambda rng: rows(*[good] * rng.randrange(100, 200)),
        lambda rng: rows(),
        lambda rng: rows(rng.choice([1, "x", None, [], True])),
        lambda rng: put(rng.choice(["x" * rng.randrange(1, 10**5), True, {"a": 1}, {}])),
        lambda rng: put(deep(rng.randrange(10, 60))),
        lambda rng: put([[1] * k for k in range(rng.randrange(2, 40))]),
        lambda rng: put([[None] * 8] * 8),
        lambda rng: put(10 ** rng.randrange(400, 4000)),
        lambda rng: text.replace("0.", "1e99", 1).replace("0.", "NaN", 1).encode(),
        lambda rng: b'{"rows": [{"%s": %s}]}' % (name.encode(), b"9" * rng.randrange(5000, 9000)),
        lambda rng: b'{"rows": [], "rows": []}',
        lambda rng: b'{"rows": [{"\\ud800": "\\udfff"}]}',
        lambda rng: b" " * (BODY + rng.randrange(1, 1000)) if rng.random() < 0.02 else b"",
    ]


STRANGE = [
    ("GET", "/v1/predict"),
    ("PUT", "/health"),
    ("POST", "/metrics"),
    ("GET", "/" + "x" * 5000),
    ("GET", "/../../etc/passwd"),
    ("DELETE", "/v1/model"),
]


def spoil(server: "Server", manifest: Manifest, count: int) -> dict[str, Any]:
    """Sends malformed requests, and a good one after every hundred."""
    rng, client = random.Random(1), Client(server.port)
    ways = malformed(manifest, 2)
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    began = time.perf_counter()
    for k in range(count):
        if k % 10 == 9:
            method, path = rng.choice(STRANGE)
            status, content = client.ask(method, path)
        else:
            way = rng.randrange(len(ways))
            try:
                status, content = client.ask("POST", "/v1/predict", ways[way](rng))
            except (BrokenPipeError, ConnectionResetError):  # refused before the body was sent
                client.close()
                status, content = 413, b""
            path = f"way {way}"
        statuses[status] += 1
        if not 400 <= status < 500:
            wrong.append(f"{path}: {status} {content[:80]!r}")
        if k % 100 == 99:
            row = row_of(manifest, rng)
            status, content = client.ask(
                "POST", "/v1/predict", json.dumps({"rows": [row]}).encode()
            )
            if status != 200:
                wrong.append(f"a good request after {k}: {status} {content[:80]!r}")
    client.close()
    return {
        "count": count,
        "seconds": round(time.perf_counter() - began, 1),
        "statuses": dict(sorted(statuses.items())),
        "wrong": wrong[:10],
        "wrong_count": len(wrong),
    }


class Server:
    """`fusekit serve` as a process."""

    def __init__(self, folder: Path, most: int):
        words = ["serve", str(folder), "--port", "0", "--max-batch", str(most)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fusekit", *words, "--max-body", str(BODY / (1 << 20))],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.port = int(line.partition("127.0.0.1:")[2].split()[0])
        client = Client(self.port)
        while client.ask("GET", "/ready")[0] != 200:
            time.sleep(0.1)
        client.close()

    def state(self) -> dict[str, float]:
        """Memory in MiB, threads and open files."""
        folder = Path("/proc") / str(self.process.pid)
        told = dict(
            line.split(":", 1)
            for line in (folder / "status").read_text().splitlines()
            if ":" in line
        )
        return {
            "rss_mib": round(int(told["VmRSS"].split()[0]) / 1024, 1),
            "threads": int(told["Threads"]),
            "files": len(list((folder / "fd").iterdir())),
        }

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)
        return self.process.returncode


def loaded(
    server: Server, manifest: Manifest, seconds: float, clients: int
) -> tuple[dict[str, Any], dict[str, float]]:
    """So many clients that ask for one to four rows, each as fast as it is answered; and the
    server's state after the first seconds."""
    rng = random.Random(3)
    bodies = [
        json.dumps({"rows": [row_of(manifest, rng) for _ in range(1 + k % 4)]}).encode()
        for k in range(32)
    ]
    end = time.perf_counter() + seconds
    taken: list[list[float]] = [[] for _ in range(clients)]
    statuses: Counter[int] = Counter()

    def go(number: int) -> None:
        client, mine = Client(server.port), taken[number]
        k = number
        while (began := time.perf_counter()) < end:
            status, _ = client.ask("POST", "/v1/predict", bodies[k % len(bodies)])
            mine.append(time.perf_counter() - began)
            statuses[status] += 1
            k += 1
        client.close()

    threads = [threading.Thread(target=go, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(min(WARM, seconds / 2))
    first = server.state()
    for thread in threads:
        thread.join()
    each = np.array([one for mine in taken for one in mine]) * 1e3
    return {
        "seconds": seconds,
        "clients": clients,
        "requests": len(each),
        "per_second": round(len(each) / seconds, 1),
        "p50_ms": round(float(np.percentile(each, 50)), 2),
        "p99_ms": round(float(np.percentile(each, 99)), 2),
        "most_ms": round(float(each.max()), 1),
        "statuses": dict(statuses),
    }, first


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--export", type=Path, help="a folder that fusekit export has made")
    parser.add_argument("--malformed", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--max-batch", type=int, default=32)
    given = parser.parse_args()
    before = load()
    with tempfile.TemporaryDirectory() as made:
        folder = given.export or exported(Path(made) / "digits")
        manifest = Manifest.read(folder)
        server = Server(folder, given.max_batch)
        states = {"ready": server.state()}
        refused = spoil(server, manifest, given.malformed)
        states["after_malformed"] = server.state()
        figures, states["load_begun"] = loaded(server, manifest, given.minutes * 60, given.clients)
        states["load_ended"] = server.state()
        text = Client(server.port).ask("GET", "/metrics")[1].decode()
        told = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[:1] not in "#")
        count = float(told["fusekit_batch_rows_count"])
        figures["rows_a_batch"] = round(float(told["fusekit_batch_rows_sum"]) / max(count, 1), 2)
        status = server.stop()
    first, last = (states[when]["rss_mib"] for when in ("load_begun", "load_ended"))
    failures = list(refused["wrong"])
    if set(figures["statuses"]) != {200}:
        failures.append(f"requests under load were answered {figures['statuses']}")
    if last - first > GROWTH * first:
        failures.append(f"memory grew from {first} to {last} MiB under load")
    if status:
        failures.append(f"the server ended with status {status}")
    found = {"model": manifest.name, "malformed": refused, "load": figures, "states": states}
    return report("serve", found, failures=failures, before=before)


if __name__ == "__main__":
    sys.exit(main())
