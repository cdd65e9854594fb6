"""The page that shows every route and field, with all that it loads: it works where there is no internet.

Its script and its style are Swagger UI's (``server/static``, swagger-ui-dist 5.35.0, Apache-2.0), unchanged.
"""

from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parents[1] / "static"
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".png": "image/png"}
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)
"""Holds a browser to it: nothing from elsewhere."""


@router.get("/docs")
async def docs() -> Response:
    """The page. Its addresses are relative, so that it works behind a proxy that puts something before them."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="cos-serve",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon-32x32.png",
        # Without this it sends every schema that is not on this machine to a service that judges it.
        swagger_ui_parameters={"validatorUrl": None},
    )
    page.headers["Content-Security-Policy"] = _POLICY
    return page


def _file(name: str) -> Response:
    path = _FOLDER / name
    return FileResponse(path, media_type=_MEDIA_TYPES[path.suffix])


@router.get("/docs/swagger-ui-bundle.js")
async def script() -> Response:
    """Swagger UI's script."""
    return _file("swagger-ui-bundle.js")


@router.get("/docs/swagger-ui.css")
async def style() -> Response:
    """Swagger UI's style."""
    return _file("swagger-ui.css")


@router.get("/docs/favicon-32x32.png")
async def icon() -> Response:
    """The page's icon."""
    return _file("favicon-32x32.png")
