import pytest
from hypothesis import given
from hypothesis import strategies as st

from medray.privacy.traces import traces_of


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Smith^John", "scan of smithers"),
        ("Li^Wei", "HEAD LI W/O"),
        ("Li^Wei", "liwei_head"),
        ("Li^Wei", "weili"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "山田太郎 頭部"),
        ("Wang=王^小东", "头颅王"),
        ("Kim=김^희중", "김 T1"),
        ("Müller^Jürgen", "MULLER KNIE"),
        ("MULLER", "Müller Knie"),
        ("Groß", "GROSS"),
        ("Ｙａｍａｄａ", "yamada"),
        ("Иванов^Пётр", "КТ ИВАНОВ"),
        ("1234567", "acc 1234567-2"),
        ("Müller-Schmidt^Anna", "fl3d SCHMIDT"),
        ("Li-Na^Wu", "KOPF LI NA"),
        ("Meier_Hans", "Meier"),
        ("Müller", "MRT Mueller"),
        ("Sørensen", "SOERENSEN"),
        ("A12", "a12 follow-up"),
    ],
)
def test_repetitions_are_found(name, text):
    assert traces_of([name]).in_text(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [("Li^Wei", "LIVER WEIGHTED"), ("Ed^A", "EDGE A"), ("12", "120 kV"), ("", "B30f"), ("J", "J"), ("Lee^Bo", "BONE")],
)
def test_chance_is_no_repetition(name, text):
    assert not traces_of([name]).in_text(text)


def test_the_standard_s_short_terms_stay():
    traces = traces_of(["Se^Mr"])
    assert traces.in_text("SE")
    assert not traces.in_text("SE", term=True)
    assert traces_of(["Axial^Joe"]).in_text("AXIAL", term=True)


LETTERS = st.text(st.characters(categories=["L"]), min_size=2, max_size=12)


@given(st.lists(LETTERS, min_size=1, max_size=3), st.text(max_size=20))
def test_a_name_in_full_is_always_found(parts, around):
    assert traces_of(["^".join(parts)]).in_text(f"{around} {' '.join(parts)} {around}")
