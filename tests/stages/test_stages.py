"""The flat namespace of the stages."""

import inspect

import pytest

from wespeaker_qm import DataFolder, RecipeError, RunFolder, stages


@pytest.mark.parametrize("name", stages.__all__)
def test_a_stage_is_a_documented_function_of_keywords(name):
    function = getattr(stages, name)
    assert inspect.isfunction(function)
    parameters = inspect.signature(function).parameters.values()
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    for section in ("Args:", "Raises:"):
        assert section in function.__doc__
    for parameter in parameters:
        assert f"{parameter.name}: " in function.__doc__


@pytest.mark.parametrize(("function", "name"), [(stages.normalise, "method"), (stages.calibrate, "scores")])
def test_another_method_is_refused_before_anything_is_written(tmp_path, function, name):
    with pytest.raises(RecipeError, match=rf"{name}: found 'znorm', expected one of snorm, asnorm"):
        function(data=DataFolder(tmp_path), run=RunFolder(tmp_path), **{name: "znorm"})
    assert not list(tmp_path.iterdir())


def test_what_is_drawn_is_a_speaker_or_a_trial(tmp_path):
    with pytest.raises(RecipeError, match="by: found 'foo', expected one of speaker, trial"):
        stages.measure(score_files=[tmp_path / "none.score"], by="foo")
