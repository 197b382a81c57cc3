from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medray.errors import ImageError
from medray.formats.image import read_file, sniff
from medray.formats.picture import read_picture


def encoded(pixels, kind="PNG", **options):
    out = BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def test_grey_colour_and_deep_pictures(rng):
    grey, colour = rng.integers(0, 255, (5, 7), dtype=np.uint8), rng.integers(0, 255, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(read_file(encoded(grey)).voxels[0, :, :, 0], grey.T)
    image = read_file(encoded(colour))
    assert image.meta == {"samples": "3"}
    assert np.array_equal(image.voxels[1, :, :, 0], colour[..., 1].T)
    deep = rng.integers(0, 65535, (5, 7), dtype=np.uint16)
    assert np.array_equal(read_file(encoded(deep)).voxels[0, :, :, 0], deep.T)
    assert sniff(encoded(grey, "JPEG")) == "picture"


def test_text_in_a_picture_is_dropped(rng):
    info = PngInfo()
    info.add_text("Comment", "John Doe")
    image = read_file(encoded(rng.integers(0, 255, (5, 7), dtype=np.uint8), pnginfo=info))
    assert "Doe" not in str(image.meta)


def test_what_is_no_picture(rng, monkeypatch):
    data = encoded(rng.integers(0, 255, (50, 70), dtype=np.uint8))
    with pytest.raises(ImageError, match="can't be decoded"):
        read_picture(data[:200])
    with pytest.raises(ImageError, match="can't be decoded"):
        read_picture(b"hello")
    monkeypatch.setattr("medray.formats.picture.MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="too many"):
        read_picture(data)
