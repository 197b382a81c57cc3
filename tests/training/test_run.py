import pytest

from medray.errors import ConfigError
from medray.storage.location import locate
from medray.training.run import claim_folder, read_history


def test_the_same_set_up_finds_its_folder_again_and_another_gets_a_new_one(tmp_path):
    runs = locate(tmp_path)
    first = claim_folder(runs, "brain", {"epochs": 1})
    assert claim_folder(runs, "brain", {"epochs": 1}) == first
    other = claim_folder(runs, "brain", {"epochs": 2})
    assert other.path.endswith("brain/2")
    other.join("run.json").write(b"{}")
    assert claim_folder(runs, "brain", {"epochs": 2}) == other
    assert claim_folder(runs, "brain", {"epochs": 1}).path.endswith("brain/3")
    assert read_history(first) == []


@pytest.mark.parametrize("name", ["", "Brain", "a/b", "../x", "a b"])
def test_names_that_are_no_folder_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="small letters"):
        claim_folder(locate(tmp_path), name, {})
