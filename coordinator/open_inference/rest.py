"""The Open Inference Protocol over HTTP: `/v2/...`, JSON and the binary tensor extension.

Errors are `{"error": ...}` with the status of `swarm.rpc.status`.
"""

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from coordinator.http_bodies import BodyReader
from coordinator.open_inference.callers import HttpCallers
from coordinator.open_inference.description import openapi
from swarm import __version__
from swarm.answering.front_door import named
from swarm.audit import RefusalLog
from swarm.domain.errors import (
    ExhaustedError,
    InvalidInputError,
    NotReadyError,
    SwarmError,
    UnauthenticatedError,
)
from swarm.domain.ids import NodeId
from swarm.domain.membership import Caller
from swarm.domain.open_inference import PROTOCOL_EXTENSIONS
from swarm.rpc.allowances import Allowances
from swarm.rpc.callers import current_caller, set_current_caller
from swarm.rpc.interceptors import Admission
from swarm.rpc.open_inference.json_body import only_ready, request_from_body, result_to_body
from swarm.rpc.open_inference.json_models import config_json, index_json, metadata_json, statistics_json
from swarm.rpc.open_inference.servicer import SERVER_NAME
from swarm.rpc.options import MAX_MESSAGE_BYTES, UNARY_TIMEOUT_S
from swarm.rpc.ports import OpenInferencePort
from swarm.rpc.status import http_status

MAX_BODY_BYTES = MAX_MESSAGE_BYTES + (1 << 20)
ROOM_BYTES = 8 * MAX_BODY_BYTES
BODY_TIMEOUT_S = 60.0
HEADER_SIZE = "Inference-Header-Content-Length"
_SHORT_BYTES = 1 << 16
"""A body up to this is converted on the event loop: a thread takes longer to begin than it to be read."""
_ELSEWHERE = re.compile(
    r"/v2/(repository/models/[^/]+/(un)?load"
    r"|(models/[^/]+/(versions/[^/]+/)?)?(generate|generate_stream|trace/setting)"
    r"|logging|(system|cuda)sharedmemory/(region/[^/]+/)?(status|register|unregister))"
)
"""Pages that other servers of the protocol have."""

log = structlog.get_logger()
Handler = Callable[[Request], Awaitable[Response]]


def rest_app(
    port: OpenInferencePort,
    callers: HttpCallers,
    allowances: Allowances,
    clock: Callable[[], float],
    admission: Admission = lambda caller, timeout_s: nullcontext(),
) -> Starlette:
    """Return the application. clock: seconds from any steady origin, for the log of refusals. `admission` may
    refuse whoever asks for an answer before the body is read."""
    bodies = BodyReader(most_bytes=MAX_BODY_BYTES, room_bytes=ROOM_BYTES, timeout_s=BODY_TIMEOUT_S)
    on = _Rest(port, bodies, admission)
    guard = _Guard(callers, allowances, RefusalLog(clock=clock))
    routes = [
        Route("/v2/health/live", guard.open(on.live), methods=["GET"]),
        Route("/v2/health/ready", guard.open(on.ready), methods=["GET"]),
        Route("/v2/openapi.json", guard.open(on.description), methods=["GET"]),
        Route("/v2", guard.known(on.server), methods=["GET"]),
        Route("/v2/models/stats", guard.known(on.statistics), methods=["GET"]),
        Route("/v2/repository/index", guard.known(on.index), methods=["GET", "POST"]),
    ]
    for prefix in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes += [
            Route(prefix, guard.known(on.model, prefix), methods=["GET"]),
            Route(f"{prefix}/ready", guard.known(on.model_ready, f"{prefix}/ready"), methods=["GET"]),
            Route(f"{prefix}/config", guard.known(on.config, f"{prefix}/config"), methods=["GET"]),
            Route(f"{prefix}/stats", guard.known(on.statistics, f"{prefix}/stats"), methods=["GET"]),
            Route(f"{prefix}/infer", guard.known(on.infer, f"{prefix}/infer"), methods=["POST"]),
        ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _no_such_page})


class _Rest:
    def __init__(self, port: OpenInferencePort, bodies: BodyReader, admission: Admission) -> None:
        self._port, self._bodies, self._admission = port, bodies, admission

    async def description(self, _: Request) -> Response:
        return JSONResponse(openapi())

    async def live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, _: Request) -> Response:
        if not self._port.is_ready():
            raise NotReadyError(
                "swarm",
                found="no gate with leaves yet",
                expected="a contribution of at least one node",
                remedy="on a node: swarm train DATA",
            )
        return JSONResponse({"ready": True})

    async def server(self, _: Request) -> Response:
        facts = {"name": SERVER_NAME, "version": __version__, "extensions": PROTOCOL_EXTENSIONS}
        return JSONResponse(facts)

    async def model(self, request: Request) -> Response:
        return JSONResponse(metadata_json(await self._port.model(*_asked(request))))

    async def model_ready(self, request: Request) -> Response:
        found = await self._port.standing(*_asked(request))
        if not found.is_ready:
            raise NotReadyError(f"model {found.name}", found=found.reason, expected="somebody who can answer")
        return JSONResponse({"name": found.name, "ready": True})

    async def config(self, request: Request) -> Response:
        return JSONResponse(config_json(await self._port.model(*_asked(request))))

    async def statistics(self, request: Request) -> Response:
        return JSONResponse(statistics_json(self._port.statistics(*_asked(request))))

    async def index(self, request: Request) -> Response:
        wanted = only_ready(await self._bodies.read(request, named(current_caller())))
        return JSONResponse(index_json(self._port.index(only_ready=wanted)))

    async def infer(self, request: Request) -> Response:
        with self._admission(current_caller(), UNARY_TIMEOUT_S):
            header_size = _header_size(request)
            body = await self._bodies.read(request, named(current_caller()))
            name, version = _asked(request)
            # The JSON is what takes time; bytes behind it are not read here.
            is_short = (len(body) if header_size is None else header_size) <= _SHORT_BYTES
            asked = (
                request_from_body(name, version, body, header_size)
                if is_short
                else await asyncio.to_thread(request_from_body, name, version, body, header_size)
            )
        result = await self._port.infer(asked.request, UNARY_TIMEOUT_S)
        content, json_size = (
            result_to_body(result, asked)
            if is_short
            else await asyncio.to_thread(result_to_body, result, asked)
        )
        if json_size is None:
            return Response(content, media_type="application/json")
        return Response(content, media_type="application/octet-stream", headers={HEADER_SIZE: str(json_size)})


class _Guard:
    """Who may call, how much at once, and how errors leave: around every page."""

    def __init__(self, callers: HttpCallers, allowances: Allowances, refusals: RefusalLog) -> None:
        self._callers, self._allowances, self._refusals = callers, allowances, refusals

    def open(self, handler: Handler) -> Handler:
        """Return a page for everybody."""
        return partial(self._serve, handler, None, "")

    def known(self, handler: Handler, page: str = "") -> Handler:
        """Return a page for callers who are known. `page`: what logs call it where callers choose its path,
        of which there are too many to count refusals by."""
        return partial(self._serve, handler, self._callers, page)

    async def _serve(
        self, handler: Handler, callers: HttpCallers | None, page: str, request: Request
    ) -> Response:
        started, who = time.monotonic(), ""
        peer, path = request.client.host if request.client else "", page or request.url.path[:200]
        try:
            if callers is None:
                return await handler(request)
            who = callers.admit(request.headers)
            set_current_caller(Caller(role="client", id=NodeId(who.partition("/")[2])))
            with self._allowances.call(who, path, "call"):
                response = await handler(request)
        except SwarmError as error:
            self._refusals.refused(path, who, error, peer=peer)
            return error_response(error)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            log.exception("http.failed", path=path, caller=who)
            return error_response(
                SwarmError(
                    path,
                    found="an internal error",
                    remedy="the coordinator's log has the details; this is a defect, please report it",
                )
            )
        log.debug("http.served", path=path, caller=who, duration_s=round(time.monotonic() - started, 6))
        return response


def error_response(error: SwarmError) -> Response:
    """Return an error as the protocol says it, with what its status asks for besides."""
    headers = {}
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, ExhaustedError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return JSONResponse({"error": str(error)}, status_code=http_status(error), headers=headers)


async def _no_such_page(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    page = f"{request.method} {request.url.path[:120]}"
    if status == 404 and _ELSEWHERE.fullmatch(request.url.path):
        return JSONResponse({"error": f"{page}: not implemented here; see docs/serving.md"}, status_code=501)
    found = "another method is served" if status == 405 else "nothing here"
    return JSONResponse(
        {"error": f"{page}: {found}; GET /v2/openapi.json lists the pages"}, status_code=status
    )


def _asked(request: Request) -> tuple[str, str]:
    return request.path_params.get("name", ""), request.path_params.get("version", "")


def _header_size(request: Request) -> int | None:
    """Return how many bytes of the body are JSON, None for all; InvalidInputError for what cannot be read."""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise InvalidInputError(
            "header Content-Encoding", found=encoding[:40], expected="no compression", remedy="send it plain"
        )
    text = request.headers.get(HEADER_SIZE)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 12:
        raise InvalidInputError(f"header {HEADER_SIZE}", found=repr(text[:40]), expected="a number of bytes")
    return int(text)
