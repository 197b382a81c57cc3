"""Images for a viewer: those of the cohort that is shown, page by page; and any image, however it is stored, as NRRD."""

import asyncio
from bisect import bisect_right
from collections import defaultdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from medray.cohort.manifest import SeriesRow
from medray.progression.when import series_of
from medray.serving.auth import Role
from medray.serving.desk import Desk
from medray.serving.guard import Guard
from medray.serving.results import NRRD
from medray.serving.v1 import ANSWERS, BODY, REFUSALS, image_in, respond, unwrapped
from medray.serving.worklist import Worklist

__all__ = ["images"]

MOST = 500


def images(desk: Desk, guard: Guard, shown: Worklist | None) -> APIRouter:
    """Make the routes."""
    routes = APIRouter(prefix="/v1")
    seeing = Depends(guard.needs(Role.VIEWER))

    @routes.get("/images", dependencies=[seeing], responses=REFUSALS)
    async def listed(after: str = "", most: Annotated[int, Query(ge=1, le=MOST)] = 50) -> dict[str, list[dict[str, Any]]]:
        """List the cohort's images, those after one of them; none where no cohort is shown."""
        return {"images": await asyncio.to_thread(_page, shown, after, most) if shown else []}

    @routes.get("/subjects", dependencies=[seeing], responses=REFUSALS)
    async def subjects(after: str = "", most: Annotated[int, Query(ge=1, le=MOST)] = MOST) -> dict[str, Any]:
        """List those who were scanned more than once, those after one of them, each with their images in turn."""
        return {"subjects": await asyncio.to_thread(_subjects, shown, after, most) if shown else []}

    @routes.post(
        "/view",
        dependencies=[seeing],
        responses={**ANSWERS, 200: {"description": "NRRD.", "content": {NRRD: {}}}},
        openapi_extra=BODY,
    )
    async def view(request: Request) -> Response:
        """Give an image as NRRD, whatever it came as: the same bodies as for a prediction."""
        async with desk.received(request) as sent:
            body = await unwrapped(request, sent)
            return respond(await desk.view(image_in(desk, request, body)))

    return routes


def _subjects(shown: Worklist, after: str, most: int) -> list[dict[str, Any]]:
    """Return subjects with one image of each study: of one modality, the one with the most voxels."""
    of_one: dict[str, list[SeriesRow]] = defaultdict(list)
    for row in shown.cohort.rows:
        if row.subject > after and not row.synthetic and row.channels == 1:
            of_one[row.subject].append(row)
    chosen = {subject: series_of(rows) for subject, rows in sorted(of_one.items())}
    several = [(subject, rows) for subject, rows in chosen.items() if len(rows) > 1]
    return [
        {"subject": subject, "images": [{"image": row.series, "time_point": row.time_point} for row in rows]}
        for subject, rows in several[:most]
    ]


def _page(shown: Worklist, after: str, most: int) -> list[dict[str, Any]]:
    rows = sorted(shown.cohort.rows, key=lambda row: row.series)
    start = bisect_right(rows, after, key=lambda row: row.series)
    tags = shown.tags()
    return [
        {
            "image": row.series,
            "subject": row.subject,
            "time_point": row.time_point,
            "modality": row.modality,
            "shape": list(row.shape),
            "spacing_mm": list(row.spacing_mm),
            "tags": tags.get(row.series, []),
        }
        for row in rows[start : start + most]
    ]
