"""The reading room, a web page at ``/`` over the routes that all have, and the OpenAPI page; nothing comes from elsewhere."""

from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse, HTMLResponse

from medray.errors import NotFoundError

__all__ = ["file_below", "reading_room"]

PAGES = Path(__file__).resolve().parent / "pages"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".txt": "text/plain"}
SCRIPTS = "/pages/vendor/swagger-ui"


def file_below(root: Path, path: str) -> Path | None:
    """Return a file below a folder, None where there is none of that path, or it leads out of the folder.

    Args:
        root: The folder, resolved.
        path: As somebody asked for it.
    """
    file = (root / path).resolve()
    return file if file.is_relative_to(root) and file.is_file() else None


def reading_room() -> APIRouter:
    """Make the routes; none of them says anything of anybody, so that none asks who asks."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def page() -> Response:
        """Give the page."""
        return FileResponse(PAGES / "index.html", media_type="text/html")

    @routes.get("/pages/{path:path}")
    async def part(path: str) -> Response:
        """Give a script or a style of the page."""
        file = file_below(PAGES, path)
        if file is None or file.suffix not in KINDS:
            missing = "its scripts come from npm when medray is installed: install it again where npm's registry can be reached"
            raise NotFoundError(f"no such page; {missing}" if path.startswith("vendor/") else "no such page")
        return FileResponse(file, media_type=KINDS[file.suffix])

    @routes.get("/docs")
    async def docs() -> HTMLResponse:
        """Give the OpenAPI page."""
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="medray",
            swagger_js_url=f"{SCRIPTS}-bundle.js",
            swagger_css_url=f"{SCRIPTS}.css",
            swagger_favicon_url="data:,",
        )

    return routes
