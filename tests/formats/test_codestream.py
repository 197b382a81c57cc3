from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from medray.errors import ImageError
from medray.formats.codestream import frame_size
from medray.formats.dicom_series import write_dicom_series
from tests.formats.test_dicom import WHO, edited, read, volume


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_frames_say_their_size_and_lies_are_refused(syntax):
    item = dcmread(BytesIO(write_dicom_series(volume(shape=(40, 36, 1)), WHO)[0]))
    item.compress(syntax, generate_instance_uid=False)
    frame = next(generate_frames(item.PixelData, number_of_frames=1))
    assert frame_size(frame) == (36, 40)
    out = BytesIO()
    item.save_as(out)
    with pytest.raises(ImageError, match="header says otherwise"):
        read([edited(out.getvalue(), Rows=20, Columns=40)])


def test_jpeg_too():
    out = BytesIO()
    Image.fromarray(np.zeros((30, 50), np.uint8)).save(out, "JPEG", comment=b"x" * 300)
    assert frame_size(out.getvalue()) == (30, 50)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"hello", b"\xff\xd8\x00\x00" * 9, b"\xff\x4f\xff\x51\0"])
def test_nonsense_has_no_size(data):
    assert frame_size(data) is None
