from medray.training.config import FitConfig


def test_what_nobody_said_the_device_decides():
    assert FitConfig().settled(gpu=True).channels_last is True
    assert FitConfig().settled(gpu=False).channels_last is False
    assert FitConfig(channels_last=False).settled(gpu=True).channels_last is False
