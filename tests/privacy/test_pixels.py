import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset

from medray.errors import ImageError
from medray.privacy import pixels
from medray.privacy.pixels import at_risk, redacted


def cine(rng, frames, named=(), dtype=np.uint8, scale=1):
    """Speckle ``(F, I, J, 1)``; frames of ``named`` show a name in their corner."""
    made = []
    for number in range(frames):
        picture = Image.fromarray(rng.normal(60, 12, (240, 320)).clip(0, 255).astype(np.uint8))
        if number in named:
            ImageDraw.Draw(picture).text((10, 6), "DOE, JOHN 1950-01-01", fill=250)
        made.append(np.asarray(picture).T)
    return (np.stack(made).astype(dtype) * dtype(scale))[..., np.newaxis]


def readable(voxels):
    return any(pixels._readable(picture) for plane in pixels._planes(voxels, 1) for picture in pixels._pictures(plane))


@pytest.mark.parametrize("named", [(5,), (2, 3)])
def test_a_name_in_any_frame_is_blanked_in_all(rng, named):
    voxels = cine(rng, 6, named)
    assert readable(voxels)
    result = redacted(voxels, None)
    assert not readable(result)
    assert (result[:, :, 40:] == voxels[:, :, 40:]).mean() > 0.99


def test_more_frames_than_looks_are_looked_at_together(rng, monkeypatch):
    monkeypatch.setattr(pixels, "MOST_LOOKS", 4)
    assert not readable(redacted(cine(rng, 9, (6,)), None))


def test_a_hot_pixel_hides_no_name(rng):
    voxels = cine(rng, 2, (1,), np.uint16, 8)
    voxels[0, 200, 200] = voxels[1, 200, 200] = 65_535
    assert not readable(redacted(voxels, None))
    assert readable(voxels)


def test_bright_tissue_hides_no_name(rng):
    """Letters are fewer than one pixel in a thousand of a large radiograph, and hardly brighter than what lies below."""
    plane = rng.normal(800, 60, (2000, 1600)).astype(np.float32)
    plane[200:700, 100:900] = rng.normal(2500, 30, (500, 800))
    letters = Image.new("L", (1600, 2000))
    ImageDraw.Draw(letters).text((300, 400), "SCHMIDT EVA", fill=255, font=ImageFont.load_default(28))
    shown = np.asarray(letters) > 127
    assert shown.mean() < 1e-3
    voxels = np.where(shown, 4000, plane).astype(np.uint16).T[None, :, :, None]
    result = redacted(voxels, None)
    assert (result[0, :, :, 0].T[shown] == 4000).mean() < 0.02


def test_regions_that_cover_everything_vouch_for_nothing(rng, monkeypatch):
    monkeypatch.setattr(pixels, "can_look", lambda: False)
    header, region = Dataset(), Dataset()
    header.SequenceOfUltrasoundRegions = [region]
    for bottom, fine in ((239, False), (199, True)):
        for corner, value in {"MinX0": 0, "MaxX1": 319, "MinY0": 40 if fine else 0, "MaxY1": bottom}.items():
            setattr(region, f"RegionLocation{corner}", value)
        if fine:
            redacted(cine(rng, 1), header)
        else:
            with pytest.raises(ImageError, match="nothing here can look"):
                redacted(cine(rng, 1), header)


def test_what_shows_no_text_stays_as_it_is(rng):
    voxels = cine(rng, 3)
    assert redacted(voxels, None) is voxels


def test_ultrasound_keeps_its_regions_alone(rng):
    header, region = Dataset(), Dataset()
    for corner, value in {"MinX0": 0, "MaxX1": 319, "MinY0": 40, "MaxY1": 239}.items():
        setattr(region, f"RegionLocation{corner}", value)
    header.SequenceOfUltrasoundRegions = [region]
    voxels = cine(rng, 2, (0, 1))
    result = redacted(voxels, header)
    assert (result[:, :, :40] == voxels.min()).all()
    assert (result[:, :, 40:] == voxels[:, :, 40:]).all()


def test_what_is_left_after_blanking_is_refused(rng, monkeypatch):
    monkeypatch.setattr(pixels, "_blanked", lambda voxels, boxes: voxels)
    with pytest.raises(ImageError, match="text is left") as caught:
        redacted(cine(rng, 2, (1,)), None)
    assert caught.value.reason == "burned-in-text"


def test_a_frame_is_looked_at_again_however_many_pictures_the_others_make(monkeypatch):
    """Blanking takes the hot pixel away for which the first frame was looked at twice."""
    dark, bright = (np.linspace(start, start + 40, 80 * 60).reshape(80, 60).astype(np.uint16) for start in (0, 100))
    dark[5, 5] = 60_000
    voxels = np.stack([dark, bright])[..., np.newaxis]
    second = next(pixels._pictures(bright[np.newaxis]))
    monkeypatch.setattr(pixels, "_texts", lambda picture: [(4, 6, 4, 6)] if np.array_equal(picture, second) else [])
    monkeypatch.setattr(pixels, "_readable", lambda picture: True)
    with pytest.raises(ImageError, match="text is left"):
        redacted(voxels, None)


@pytest.mark.parametrize(
    ("facts", "risk"),
    [
        ({"Modality": "MR"}, False),
        ({"Modality": "CT", "BurnedInAnnotation": "YES"}, True),
        ({"Modality": "DX"}, True),
        ({"Modality": "EC"}, True),
        ({}, True),
        ({"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6"}, True),
        ({"Modality": "DX", "BurnedInAnnotation": "NO"}, False),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, True),
        ({"Modality": "CT", "ConversionType": "WSD"}, True),
        ({"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, True),
        ({"Modality": "CT", "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, True),
    ],
)
def test_risk_follows_from_how_an_image_came_to_be(facts, risk):
    header = Dataset()
    for keyword, value in facts.items():
        setattr(header, keyword, value)
    assert at_risk(header) == risk
