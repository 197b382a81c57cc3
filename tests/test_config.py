import pytest

from medray import config
from medray.errors import ConfigError, NotFoundError
from medray.training.config import FitConfig


def test_unknown_key_names_itself_and_the_known_ones():
    with pytest.raises(ConfigError, match=r"fit.toml: unknown key 'epoch'; known keys are .*epochs"):
        config.load(FitConfig, {"epoch": 3}, what="fit.toml")


def test_wrong_value_names_key_and_value():
    with pytest.raises(ConfigError, match="epochs = 0"):
        config.load(FitConfig, {"epochs": 0}, what="fit.toml")


def test_dump_and_load_are_inverses():
    made = FitConfig(epochs=3, mixed=False)
    assert config.load(FitConfig, config.dump(made), what="it") == made


def test_overrides_nest_and_parse():
    assert config.overrides(["a.b=[1, 2]", "a.c=x", "d=true"]) == {"a": {"b": [1, 2], "c": "x"}, "d": True}
    with pytest.raises(ConfigError, match="not key=value"):
        config.overrides(["epochs"])


def test_read_file_refuses_in_one_line(tmp_path):
    with pytest.raises(NotFoundError):
        config.read_file(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("epochs = = 3")
    with pytest.raises(ConfigError, match=r"bad\.toml can't be read"):
        config.read_file(tmp_path / "bad.toml")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ConfigError, match="holds a list"):
        config.read_file(tmp_path / "list.json")
