"""The join port: HTTPS for those who have no certificate yet, or whose certificate expired while they slept.

Everyone may call it, so bodies are small, reading them takes seconds at most, and calls per address are
counted. Problems are JSON: code, subject, found, expected, remedy.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from coordinator.admission import Admission
from coordinator.throttle import Throttle
from swarm.audit import RefusalLog
from swarm.domain.errors import (
    DeadlineError,
    ExhaustedError,
    InvalidInputError,
    NotFoundError,
    SwarmError,
)
from swarm.domain.ids import Digest
from swarm.modules.blobs import BlobFiles
from swarm.rpc.status import http_status, problem_json

MAX_BODY_BYTES = 64 * 1024
BODY_TIMEOUT_S = 10.0

log = structlog.get_logger()
Handler = Callable[[Request], Awaitable[Response]]


def join_app(admission: Admission, blobs: BlobFiles, clock: Callable[[], float]) -> Starlette:
    """Return the join port's application. clock: seconds, for counting calls (any steady origin)."""
    reading = Throttle(burst=240, per_second=40, clock=clock)
    joining = Throttle(burst=40, per_second=1, clock=clock)
    refusals = RefusalLog(clock=clock)

    async def ca(_: Request) -> Response:
        return PlainTextResponse(admission.ca.certificate_pem, media_type="application/x-pem-file")

    async def specification(_: Request) -> Response:
        return JSONResponse(admission.specification())

    async def blob(request: Request) -> Response:
        name = request.path_params["digest"]
        if name not in admission.trunk_blobs():
            raise NotFoundError("blob", found=name[:64], expected="a blob of the specification's trunk")
        view = await run_in_threadpool(blobs.open_verified, Digest(name))
        return Response(bytes(view), media_type="application/octet-stream")

    async def join(request: Request) -> Response:
        return JSONResponse(await admission.join(await _body(request)))

    async def renew(request: Request) -> Response:
        return JSONResponse(await admission.renew_by_proof(await _body(request)))

    return Starlette(
        routes=[
            Route("/v1/ca", _counted(ca, reading, refusals), methods=["GET"]),
            Route("/v1/specification", _counted(specification, reading, refusals), methods=["GET"]),
            Route("/v1/blobs/{digest}", _counted(blob, reading, refusals), methods=["GET"]),
            Route("/v1/join", _counted(join, joining, refusals), methods=["POST"]),
            Route("/v1/renew", _counted(renew, joining, refusals), methods=["POST"]),
        ],
        exception_handlers={HTTPException: _no_such_page},
    )


def _counted(handler: Handler, throttle: Throttle, refusals: RefusalLog) -> Handler:
    async def handle(request: Request) -> Response:
        address = request.client.host if request.client else ""
        try:
            if not throttle.admits(address):
                raise ExhaustedError(
                    "join port",
                    found=f"too many calls from {address}",
                    expected="fewer",
                    remedy="wait a minute",
                )
            return await handler(request)
        except SwarmError as error:
            refusals.refused(request.url.path[:200], "", error, peer=address)
            return problem(error)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            log.exception("join.failed", path=request.url.path, address=address)
            return problem(
                SwarmError("coordinator", found="an internal error", remedy="see the coordinator's log")
            )

    return handle


def problem(error: SwarmError) -> Response:
    """Return an error as its HTTP status and JSON."""
    return JSONResponse(problem_json(error), status_code=http_status(error))


async def _no_such_page(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    body = problem_json(
        NotFoundError(
            f"{request.method} {request.url.path[:120]}",
            found="nothing here",
            expected="a page of the join port",
        )
    )
    return JSONResponse(body, status_code=status)


async def _body(request: Request) -> dict[str, Any]:
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                data += chunk
                if len(data) > MAX_BODY_BYTES:
                    raise InvalidInputError(
                        "request body", found="too many bytes", expected=f"at most {MAX_BODY_BYTES}"
                    )
    except TimeoutError:
        raise DeadlineError(
            "request body", found=f"not complete after {BODY_TIMEOUT_S:g} s", expected="all of it"
        ) from None
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise InvalidInputError("request body", found="no JSON object", expected="a JSON object")
    return body
