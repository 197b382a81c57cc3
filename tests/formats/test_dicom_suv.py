import pytest
from pydicom import Dataset, Sequence

from medray.formats.dicom_suv import suv_factor


def pet(**changes):
    item, info = Dataset(), Dataset()
    item.Units, item.DecayCorrection, item.PatientWeight, item.SeriesTime = "BQML", "START", "70", "103000"
    info.RadionuclideTotalDose, info.RadionuclideHalfLife, info.RadiopharmaceuticalStartTime = (
        "370000000",
        "6586.2",
        "093000.00",
    )
    for key, value in changes.items():
        setattr(info if key.startswith("Radio") else item, key, value)
    item.RadiopharmaceuticalInformationSequence = Sequence([info])
    return item


def test_the_factor_is_weight_over_what_is_left_of_the_dose():
    left = 370e6 * 2 ** (-3600 / 6586.2)
    assert suv_factor(pet()) == pytest.approx(70_000 / left)
    assert suv_factor(pet(RadiopharmaceuticalStartDateTime="20200101093000")) == pytest.approx(70_000 / left)
    assert suv_factor(pet(SeriesTime="003000", RadiopharmaceuticalStartTime="233000")) == pytest.approx(70_000 / left), (
        "over midnight"
    )


def test_a_series_that_was_computed_later_gives_none():
    assert suv_factor(pet(AcquisitionTime="103000")) is not None
    assert suv_factor(pet(AcquisitionTime="104500")) is not None
    assert suv_factor(pet(AcquisitionTime="093500")) is None


@pytest.mark.parametrize(
    "changes", [{"Units": "CNTS"}, {"DecayCorrection": "ADMIN"}, {"PatientWeight": None}, {"PatientWeight": "0"}]
)
def test_headers_that_do_not_say_enough_give_none(changes):
    assert suv_factor(pet(**changes)) is None
