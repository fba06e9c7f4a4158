"""Settings: a flag before the environment before the file, and a clear word on what cannot be."""

import pytest

from stagescope import config


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("STAGESCOPE_HOME", str(tmp_path))
    monkeypatch.delenv("STAGESCOPE_RECORD", raising=False)
    config.path().parent.mkdir()
    return config.path()


def test_a_flag_goes_before_the_environment_and_that_before_the_file(file, monkeypatch):
    assert config.recording(None)
    file.write_text("recording = false\n")
    assert not config.recording(None)
    monkeypatch.setenv("STAGESCOPE_RECORD", "1")
    assert config.recording(None) and not config.recording(False)
    monkeypatch.setenv("STAGESCOPE_RECORD", "0")
    file.write_text("")
    assert not config.recording(None)


@pytest.mark.parametrize(
    ("text", "told"),
    [("record = true", "no setting is called record: there is recording"), ("recording = 1", "true or false, not 1"),
     ("recording = ", "cannot be read"), ("\xff", "cannot be read")],
)  # fmt: skip
def test_what_is_wrong_is_told(file, text, told):
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(config.ConfigError, match=told):
        config.read()


def test_an_environment_that_says_neither_is_refused(file, monkeypatch):
    monkeypatch.setenv("STAGESCOPE_RECORD", "maybe")
    with pytest.raises(config.ConfigError, match="STAGESCOPE_RECORD is maybe: give 0 or 1"):
        config.recording(None)
