"""Which model is taken where none is named."""

from pathlib import Path

import pytest

from wespeaker_qm.speaker.default import POINTER, VARIABLE, default_model
from wespeaker_qm.utils.errors import RecipeError


def test_what_is_named_comes_first_then_the_environment_then_the_latest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "elsewhere/model")
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "latest_model").write_text(f"{POINTER}mini/run/model\n")
    assert default_model(Path("x")) == Path("x")
    assert default_model() == Path("elsewhere/model")
    monkeypatch.setenv(VARIABLE, "")
    assert default_model() == Path("exp/mini/run/model")


@pytest.mark.parametrize("text", [None, "something else\n"])
def test_none_at_all_is_told_with_what_to_do(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    if text is not None:
        (tmp_path / "exp").mkdir()
        (tmp_path / "exp" / "latest_model").write_text(text)
    with pytest.raises(RecipeError, match=rf"no model: name one \(--model DIR\), or set {VARIABLE}, or make one"):
        default_model()
