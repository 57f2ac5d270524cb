"""The HTTP interface: predictions, health, readiness and metrics."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from fusekit.answers import line, told
from fusekit.export.exported import Exported
from fusekit.export.serve.batcher import Batcher
from fusekit.export.serve.faults import RequestError, cut
from fusekit.export.serve.metrics import Metrics
from fusekit.export.serve.rows import Arrays, Rows

LARGE = 1 << 16
"""Larger bodies are read in a thread, so that others need not wait."""
SLOW = 30.0
"""Seconds within which a body must have come."""


class Service:
    """One export, served.

    Args:
      exported: the model.
      sizes: the buckets, ascending; a request has at most as many rows as the last.
      wait: seconds that a request waits for others at most.
      body: most bytes of a request.
      failed: called with what went wrong if the model cannot be compiled.
    """

    def __init__(
        self,
        exported: Exported,
        *,
        sizes: tuple[int, ...],
        wait: float,
        body: int,
        failed: Callable[[Exception], None] = lambda error: None,
    ):
        self.manifest, self.body, self.failed = exported.manifest, body, failed
        self.metrics = Metrics(sizes)
        self.rows = Rows(self.manifest, sizes[-1])
        self._exported, self._sizes, self._wait = exported, sizes, wait
        self.ready = asyncio.Event()
        self.batcher: Batcher | None = None

    # -- running -------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, app: Starlette) -> AsyncIterator[None]:
        """Compiles and predicts in the background until the server stops."""
        self.batcher = Batcher(self._exported, self.rows, self._sizes, self._wait, self.metrics)
        task = asyncio.create_task(self._go(self.batcher))
        try:
            yield
        finally:
            self.stop()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self.batcher.close()

    async def _go(self, batcher: Batcher) -> None:
        try:
            await batcher.compile()
        except Exception as error:
            self.failed(error)
            return
        self.ready.set()
        self.metrics.ready.value = 1
        await batcher.go()

    def stop(self) -> None:
        """From now on it is not ready; what was asked before is answered."""
        self.ready.clear()
        self.metrics.ready.value = 0

    # -- answering -----------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        """Whether the process answers."""
        return _json({"status": "ok"})

    async def readiness(self, request: Request) -> Response:
        """Whether predictions are made."""
        ready = self.ready.is_set()
        return _json({"ready": ready}, 200 if ready else 503)

    async def counted(self, request: Request) -> Response:
        """The metrics."""
        return PlainTextResponse(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def model(self, request: Request) -> Response:
        """What the model is: `export.json`."""
        return Response(self.manifest.text(), media_type="application/json")

    async def predict(self, request: Request) -> Response:
        """Answers to rows."""
        body = await self._body(request)
        began = time.perf_counter()
        if not self.ready.is_set() or self.batcher is None:
            raise RequestError(503, "not_ready", "the model is not ready, or stopping")
        if len(body) > LARGE:
            inputs, count = await asyncio.to_thread(self.rows.read, body)
        else:
            inputs, count = self.rows.read(body)
        found = await self.batcher.predict(inputs, count)
        answer = _json({"rows": self._lines(found, count)})
        self.metrics.seconds.add(time.perf_counter() - began)
        return answer

    def _lines(self, found: Arrays, count: int) -> list[dict[str, Any]]:
        columns = {
            one.name: told(
                found[one.name],
                mask=None if one.mask is None else found[one.mask.name],
                presence=None if one.presence is None else found[one.presence.name],
                link=one.link,
                names=one.names,
            )
            for one in self.manifest.outputs
        }
        return [line(columns, row) for row in range(count)]

    async def _body(self, request: Request) -> bytes:
        """All of it, if it is of bearable size. Raises `RequestError`."""
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
        if kind.lower() != "application/json":
            raise RequestError(415, "media_type", "the body is application/json")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.body:
            raise self._too_large()
        parts: list[bytes] = []
        total = 0
        try:
            async with asyncio.timeout(SLOW):
                async for part in request.stream():
                    total += len(part)
                    if total > self.body:
                        raise self._too_large()
                    parts.append(part)
        except TimeoutError:
            raise RequestError(408, "slow", f"the body took longer than {SLOW:g} s") from None
        return b"".join(parts)

    def _too_large(self) -> RequestError:
        return RequestError(413, "too_large", f"a body has at most {self.body} bytes")

    # -- faults --------------------------------------------------------------------------------

    async def refused(self, request: Request, error: Exception) -> Response:
        """What a request is answered that is refused."""
        assert isinstance(error, RequestError)
        self.metrics.errors.add(error.code)
        headers = {"Retry-After": "1"} if error.status == 503 else {}
        if error.status in (408, 413):  # what is left of the body is not read
            headers["Connection"] = "close"
        return _json(error.body(), error.status, headers)

    async def strange(self, request: Request, error: Exception) -> Response:
        """What is answered to a path or method that there is not."""
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method"}.get(error.status_code, "http")
        self.metrics.errors.add(code)
        body = {"error": {"code": code, "message": cut(error.detail)}}
        return _json(body, error.status_code, dict(error.headers or {}))

    async def left(self, request: Request, error: Exception) -> Response:
        """A client that went away."""
        self.metrics.errors.add("left")
        return Response(status_code=400)


def application(service: Service) -> Any:
    """The ASGI application of a service."""
    app = Starlette(
        routes=[
            Route("/health", service.health, methods=["GET"]),
            Route("/ready", service.readiness, methods=["GET"]),
            Route("/metrics", service.counted, methods=["GET"]),
            Route("/v1/model", service.model, methods=["GET"]),
            Route("/v1/predict", service.predict, methods=["POST"]),
        ],
        exception_handlers={
            RequestError: service.refused,
            HTTPException: service.strange,
            ClientDisconnect: service.left,
        },
        lifespan=service.running,
    )
    return _counting(app, service.metrics)


def _counting(app: Any, metrics: Metrics) -> Callable[..., Awaitable[None]]:
    """The application, its answers counted by status."""

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                metrics.requests.add(str(message["status"]))
            await send(message)

        await app(scope, receive, sent if scope["type"] == "http" else send)

    return counting


def _json(
    content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    try:
        text = json.dumps(content, allow_nan=False)
    except ValueError:
        message = "the model gave a number that is not finite"
        raise RequestError(500, "not_finite", message) from None
    return Response(text, status, headers, media_type="application/json")
