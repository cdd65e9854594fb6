"""Whether the server lives, is ready, what it is, and what it has counted."""

from importlib.metadata import version

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from cos.server.metrics import exposition
from cos.server.routes.context import TheService

router = APIRouter(tags=["operation"])


@router.get("/health", response_class=Response)
async def health(service: TheService) -> Response:
    """200 while both engines live and get on with their work, else 503."""
    return Response(status_code=200 if service.watch.is_well else 503)


@router.get("/ready", response_class=Response)
async def ready(service: TheService) -> Response:
    """200 while searches are let in; 503 while the server shuts down or an engine is dead or stuck."""
    return Response(status_code=200 if service.is_ready else 503)


@router.get("/ping", response_class=Response)
async def ping() -> Response:
    """200."""
    return Response()


@router.get("/version")
async def show_version() -> dict[str, str]:
    """The server's version."""
    return {"version": version("cos-serve")}


@router.get("/metrics", response_class=Response)
async def metrics(service: TheService) -> Response:
    """Prometheus metrics: the server's own and those of both engines."""
    registries = [service.metrics.registry, *(engine.registry for engine in service.engines.all)]
    return Response(exposition(registries), media_type=CONTENT_TYPE_PLAIN_0_0_4)
