"""The model this server serves, and the strategies it knows."""

from typing import Any, Literal

from fastapi import APIRouter

from cos.engines.ports import ComesBack
from cos.search.strategies import menu
from cos.server.errors import ModelNotFound
from cos.server.routes.context import TheService
from cos.server.service import Service
from cos.server.watch import ENGINES
from cos.wire.message import Message

router = APIRouter(prefix="/v1", tags=["models"])


class ModelReply(Message):
    """A model, as OpenAI lists it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "cos-serve"
    prm: str | None
    """The PRM that judges its steps."""
    elsewhere: dict[str, tuple[str, ...]]
    """The models that run on other servers, "policy" or "prm", and what those servers cannot carry."""


class ModelList(Message):
    """All models."""

    object: Literal["list"] = "list"
    data: tuple[ModelReply, ...]


class StrategyReply(Message):
    """One strategy."""

    name: str
    aliases: tuple[str, ...]
    about: str
    is_default: bool
    needs_scores: bool
    """Whether it decides by scores, the PRM's or the likelihood's."""
    params: dict[str, Any]
    """JSON schema of its parameters."""


class StrategyList(Message):
    """All strategies."""

    object: Literal["list"] = "list"
    data: tuple[StrategyReply, ...]


@router.get("/models")
async def models(service: TheService) -> ModelList:
    """The one model served."""
    return ModelList(data=(_model(service),))


@router.get("/models/{name:path}")
async def model(name: str, service: TheService) -> ModelReply:
    """The model, by its name."""
    refuse_other_model(service, name)
    return _model(service)


@router.get("/strategies")
async def strategies(service: TheService) -> StrategyList:
    """Every strategy with the schema of its parameters."""
    return StrategyList(
        data=tuple(
            StrategyReply(
                name=strategy.name,
                aliases=strategy.aliases,
                about=(strategy.__doc__ or "").strip(),
                is_default=strategy.name == service.settings.strategy,
                needs_scores=strategy.needs_scores,
                params=strategy.params.model_json_schema(),
            )
            for strategy in menu().values()
        )
    )


def refuse_other_model(service: Service, name: str) -> None:
    """Errors: ModelNotFound for any name but the served one."""
    if name != (served := service.settings.model_name):
        raise ModelNotFound(f"the model {name!r} is not served here; ask for {served!r}", "model")


def _model(service: Service) -> ModelReply:
    settings = service.settings
    prm = settings.prm_name
    return ModelReply(
        id=settings.model_name,
        created=service.started_at,
        prm=prm and prm.rstrip("/").rpartition("/")[2],
        elsewhere={
            name: engine.lacks
            for name, engine in zip(ENGINES, service.engines.all, strict=False)
            if isinstance(engine, ComesBack)
        },
    )
