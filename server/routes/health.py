"""Whether the server lives, is ready, what it is, and what it has counted."""

from importlib.metadata import version

from fastapi import APIRouter, Request, Response

from cos.server.errors import MetricsOff
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
async def metrics(request: Request, service: TheService) -> Response:
    """Metrics for Prometheus: the server's own and those of both engines, in its text format or, where the ``Accept``
    header asks for it, as OpenMetrics with exemplars. 404 where the server was started with --no-metrics."""
    if service.exposition is None:
        raise MetricsOff("this server counts nothing: it was started with --no-metrics (COS_METRICS)")
    text, media_type = service.exposition.render(request.headers.get("accept", ""))
    # The whole type is in the header: the framework would add a charset where there is one.
    return Response(text, headers={"Content-Type": media_type})
