import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medray.imaging.volume import Volume
from medray.preprocessing.foreground import cropped, foreground_box, shape_of


@given(
    st.tuples(*[st.integers(0, 4)] * 3),
    st.tuples(*[st.integers(1, 5)] * 3),
    st.tuples(*[st.integers(1, 4)] * 3),
    st.integers(-9, 9),
)
def test_the_box_is_the_smallest_around_what_differs(before, size, after, rim):
    shape = tuple(sum(parts) for parts in zip(before, size, after, strict=True))
    voxels = np.full((1, *shape), rim, np.int16)
    span = tuple(slice(b, b + n) for b, n in zip(before, size, strict=True))
    voxels[0][span] = 100
    volume = Volume(voxels, np.diag([1.0, 2.0, 3.0, 1.0]))
    corner_taken = before == (0, 0, 0)
    box = foreground_box(volume)
    assert box == (span if not corner_taken else tuple(slice(0, n) for n in shape))
    part = cropped(volume, box)
    assert part.shape == shape_of(box)
    assert np.allclose(part.affine[:3, 3], volume.affine[:3, :3] @ [span.start for span in box])


def test_noise_and_emptiness_are_kept_whole(rng):
    noise = Volume(rng.normal(size=(1, 5, 6, 7)), np.eye(4))
    assert shape_of(foreground_box(noise)) == (5, 6, 7)
    empty = Volume(np.zeros((1, 5, 6, 7)), np.eye(4))
    assert shape_of(foreground_box(empty)) == (5, 6, 7)
