"""OHIF, where somebody built it: served beside the routes that its MONAI Label plug-in calls."""

import mimetypes
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse

from medray.errors import NotFoundError
from medray.serving.reading_room import file_below

__all__ = ["INDEX", "ROOT", "ohif"]

ROOT = "/monailabel/ohif/"
"""Where it is: what ``PUBLIC_URL`` and ``routerBasename`` have to be when it is built."""
INDEX = "index.html"


def ohif(folder: str) -> APIRouter:
    """Make the routes of a build of OHIF, whose pages say nothing of anybody.

    Args:
        folder: With its ``index.html``, which is given for whatever is no file there: a page's own routes.
    """
    routes, root = APIRouter(include_in_schema=False), Path(folder).resolve()

    @routes.get(ROOT + "{path:path}")
    async def part(path: str) -> FileResponse:
        """Give a file of the build, or its page."""
        file = file_below(root, path)
        if file is None and Path(path).suffix:
            raise NotFoundError("this build of OHIF has no such file")
        file = file or root / INDEX
        return FileResponse(file, media_type=mimetypes.guess_type(file.name)[0])

    return routes
