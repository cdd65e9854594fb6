"""The application: routes, middleware, and one `Service` that lives as long as it does."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.middleware import Middleware
from pydantic.json_schema import models_json_schema

from cos.server.access import Access
from cos.server.chat_schemas import ChatRequest
from cos.server.errors import install_error_handlers
from cos.server.metrics import Metrics
from cos.server.middleware import Accounting, Auth, BodyLimit, ForeignGuard, LastResort, RequestId
from cos.server.origins import Hosts, Origins
from cos.server.routes import chat, docs, health, models, score, solve
from cos.server.service import StartEngines, launch_engines, open_service
from cos.server.settings import Settings
from cos.server.tracing import Tracer, Tracing, open_tracer
from cos.server.unmetered import Unmetered
from cos.wire.request import SolveRequest
from cos.wire.score import RerankRequest, ScoreRequest


class _Api(FastAPI):
    """Adds to the OpenAPI page the bodies that routes read by themselves."""

    def openapi(self) -> dict[str, Any]:
        schema = super().openapi()
        _, bodies = models_json_schema(
            [(model, "validation") for model in (SolveRequest, ChatRequest, ScoreRequest, RerankRequest)],
            ref_template="#/components/schemas/{model}",
        )
        schema["components"]["schemas"].update(bodies["$defs"])
        return schema


def create_app(settings: Settings, *, start: StartEngines | None = None, tracer: Tracer | None = None) -> FastAPI:
    """The server as an ASGI application. ``start``: gives the engines; those that the settings name unless given.
    ``tracer``: makes spans; as the settings and the standard variables say unless given.

    Its lifespan starts and stops the engines. Errors: InputError for spans that cannot be sent, and there for models
    that cannot be used.
    """
    tracer = tracer or open_tracer(settings)
    metrics = Metrics() if settings.metrics else Unmetered()
    metrics.describe(version=version("cos-serve"), policy=settings.policy, prm=settings.prm_name or "none")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        try:
            async with open_service(settings, metrics, start or launch_engines) as service:
                app.state.service = service
                yield
        finally:
            if tracer is not None:
                await tracer.close()

    app = _Api(
        title="cos-serve",
        summary="PRM-guided search over a vision-language model's reasoning steps.",
        version=version("cos-serve"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # The first is the outermost.
        middleware=[
            Middleware(RequestId),
            *([] if tracer is None else [Middleware(Tracing, tracer=tracer)]),
            Middleware(Access),
            Middleware(LastResort),
            Middleware(Accounting, metrics=metrics),
            Middleware(
                ForeignGuard,
                hosts=Hosts(settings.host, settings.allowed_hosts),
                origins=Origins(settings.allowed_origins),
            ),
            Middleware(Auth, keys=[key.get_secret_value() for key in settings.api_key]),
            Middleware(BodyLimit, max_bytes=settings.max_body_bytes),
        ],
    )
    install_error_handlers(app)
    for module in (solve, score, chat, models, health, docs):
        app.include_router(module.router)
    return app
