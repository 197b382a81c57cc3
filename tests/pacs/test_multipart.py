import pytest
from hypothesis import given
from hypothesis import strategies as st

from medray.errors import ImageError
from medray.pacs.multipart import PartWriter, boundary_of


def written(tmp_path, body, boundary=b"b", step=7):
    parts, names = [], iter(range(1000))
    writer = PartWriter(boundary, lambda: tmp_path / str(next(names)), lambda path: parts.append(path.read_bytes()))
    for start in range(0, len(body), step):
        writer.feed(body[start : start + step])
    writer.close()
    return parts


def encoded(parts, boundary=b"b"):
    pieces = [b"--" + boundary + b"\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts]
    return b"".join(pieces) + b"--" + boundary + b"--\r\n"


@given(
    st.lists(st.binary(max_size=80).filter(lambda part: b"\r\n--b" not in b"\r\n" + part), min_size=1, max_size=4),
    st.integers(1, 60),
)
def test_parts_come_out_as_they_went_in(tmp_path_factory, parts, step):
    assert written(tmp_path_factory.mktemp("parts"), encoded(parts), step=step) == parts


def test_the_forms_that_senders_use(tmp_path):
    assert written(tmp_path, b"\r\n" + encoded([b"x"])) == [b"x"]
    assert written(tmp_path, encoded([b"x"]) + b"epilogue") == [b"x"]
    long = b"x" * 73
    assert written(tmp_path, encoded([b"x"], long), long) == [b"x"]


@pytest.mark.parametrize("cut", [5, 20, 60, 70])
def test_a_cut_body_is_told_and_leaves_no_file(tmp_path, cut):
    with pytest.raises(ImageError, match="truncated"):
        written(tmp_path, encoded([b"0123456789" * 9])[:cut])
    assert list(tmp_path.iterdir()) == []


def test_nonsense_is_told(tmp_path):
    with pytest.raises(ImageError, match="multipart"):
        written(tmp_path, b"hello there")


def test_boundaries():
    assert boundary_of('multipart/related; type="application/dicom"; boundary="a b"') == b"a b"
    assert boundary_of("multipart/related; type=application/dicom; boundary=xyz") == b"xyz"
    bad = [
        "",
        "application/dicom",
        "multipart/form-data; boundary=x",
        'multipart/related; type="application/dicom+json"; boundary=x',
        "multipart/related; type=application/dicom",
    ]
    for header in bad:
        with pytest.raises(ImageError, match="media-type"):
            boundary_of(header)
