import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medray import config
from medray.errors import ConfigError, LabelError
from medray.imaging.labels import LabelSchema

SCHEMA = LabelSchema({"organ": 2, "tumour": 7})


def test_unknown_values_are_named():
    with pytest.raises(LabelError, match=r"values \[3\].*2 = organ, 7 = tumour") as caught:
        SCHEMA.checked(np.array([[[0, 2, 3]]]))
    assert caught.value.reason == "unknown-label"


@pytest.mark.parametrize("bad", [0.5, np.nan, 300, -1])
def test_values_that_are_no_labels_are_refused(bad):
    with pytest.raises(LabelError, match="whole numbers"):
        SCHEMA.checked(np.array([[[0.0, bad]]]))


def test_wide_integers_don_t_wrap_into_labels():
    for value in (256 + 2, 256):
        with pytest.raises(LabelError, match="whole numbers from 0 to 255"):
            SCHEMA.checked(np.array([[[0, 2, value]]], np.uint16))


def test_float_files_with_whole_values_are_fine():
    assert SCHEMA.checked(np.array([[[0.0, 7.0]]])).tolist() == [[[0, 7]]]


@given(st.lists(st.sampled_from([0, 2, 7]), min_size=1))
def test_channels_and_back(values):
    mask = np.array(values, np.uint8).reshape(1, 1, -1)
    channels = SCHEMA.channels(mask)
    assert channels.max() <= 2
    assert np.array_equal(SCHEMA.from_channels(channels), mask)


@pytest.mark.parametrize("names", [{"a": 0}, {"a": 256}, {"a": 1, "b": 1}])
def test_impossible_schemas_are_refused(names):
    with pytest.raises(ConfigError, match="distinct and from 1 to 255"):
        config.load(LabelSchema, {"names": names}, what="dseg.tsv")


def test_volumes_in_ml():
    mask = np.array([[[0, 2, 2, 7]]], np.uint8)
    assert SCHEMA.volumes_ml(mask, 0.5) == {"organ": 1.0, "tumour": 0.5}
