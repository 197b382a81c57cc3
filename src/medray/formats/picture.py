"""PNG and JPEG pictures of 2-D sets: pixels alone, for text and EXIF in them may name a patient."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from medray.errors import ImageError
from medray.imaging.volume import Volume

__all__ = ["is_picture", "read_picture"]

MAX_PIXELS = 200_000_000
MAGICS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
COLOUR = {"RGB", "RGBA", "P", "PA", "YCbCr", "CMYK"}
DEEP = {"I;16", "I;16B", "I", "F"}


def is_picture(head: bytes) -> bool:
    """Tell from a file's first bytes whether it is PNG or JPEG."""
    return head.startswith(MAGICS)


def read_picture(data: bytes) -> Volume:
    """Read a picture.

    Returns:
        ``(1 or 3, I, J, 1)``: grey or RGB, columns along I and rows along J, one mm a pixel, for a picture knows no mm.

    Raises:
        ImageError: If it can't be decoded or is absurdly large.
    """
    try:
        with Image.open(BytesIO(data), formats=("PNG", "JPEG")) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ImageError("too-large", f"{picture.width} x {picture.height} pixels are too many")
            mode = "RGB" if picture.mode in COLOUR else picture.mode if picture.mode in DEEP else "L"
            pixels = np.asarray(picture if picture.mode == mode else picture.convert(mode))
    except ImageError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ImageError("unreadable-picture", f"the picture can't be decoded ({type(error).__name__})") from None
    planes = np.moveaxis(pixels, 2, 0) if pixels.ndim == 3 else pixels[np.newaxis]
    meta = {"samples": "3"} if planes.shape[0] == 3 else {}
    return Volume(planes.transpose(0, 2, 1)[..., np.newaxis], np.eye(4), meta)
