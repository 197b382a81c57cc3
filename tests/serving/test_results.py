import json

import pytest

from medray.errors import ConfigError, ImageError, NotFoundError, ResourceError
from medray.serving.results import JSON, NIFTI, NRRD, REPORT, SEGMENTATION, accepted, refusal


@pytest.mark.parametrize(
    ("header", "media"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/x-nifti", NIFTI),
        ("text/html, application/x-nifti;q=0.5", NIFTI),
        ("text/html", None),
        ("application/dicom", SEGMENTATION),
        ("text/html, application/dicom ;report", REPORT),
        ("application/x-nrrd;q=0.9", NRRD),
    ],
)
def test_accept(header, media):
    assert accepted(header) == media


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ImageError("truncated", "cut off"), 400),
        (ImageError("unknown-format", "no image"), 415),
        (ImageError("too-large", "big"), 413),
        (NotFoundError("no model"), 404),
        (ConfigError("bad"), 422),
        (ResourceError("busy"), 503),
    ],
)
def test_refusals_are_problems_with_the_right_status(error, status):
    reply = refusal(error)
    body = json.loads(reply.body)
    assert reply.status == body["status"] == status
    assert reply.media_type == "application/problem+json"
    assert (status == 503) == ("Retry-After" in reply.headers)
