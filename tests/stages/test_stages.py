"""The flat namespace of the stages."""

import inspect
from pathlib import Path

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


def test_folders_and_files_may_be_texts_and_one_may_stand_for_several(recipe):
    data, run = "data/tiny", "exp/tiny/arcface"
    RunFolder(run).scores("near").unlink()
    stages.score(data=data, run=run, trial_lists="near")
    assert RunFolder(run).scores("near").is_file()
    stages.score(data=Path(data), run=Path(run))
    stages.evaluate(data=data, run=run, baselines={"ltas": "exp/tiny/ltas"}, num_resamples=0)
    stages.report(data=data, runs=run, base=str(Path("conf/resnet34.yaml")))
    stages.report(data=data, runs=RunFolder(run))
    scores = str(RunFolder(run).scores("near"))
    utt2spk = f"{data}/eval/utt2spk"
    measured = stages.measure(score_files=scores, utt2spk=utt2spk, fars=0.1, num_resamples=0, json="measured.json")
    assert Path("measured.json").is_file()
    assert list(measured.systems) == [scores]
    stages.find_thresholds(score_file=scores, fars=0.1, utt2spk=utt2spk, num_resamples=0)
    others = {"one": scores, "other": "exp/tiny/cosface/scores/near.score"}
    (compared,) = stages.compare(systems=others, utt2spk=utt2spk, figures="EER", num_resamples=20)
    assert compared is not None


@pytest.mark.parametrize("config", ["no.yaml", ["no.yaml"], Path("no.yaml")])
def test_one_configuration_may_be_named_alone(tmp_path, config):
    with pytest.raises(RecipeError, match=r"no\.yaml: "):
        stages.train(data=tmp_path / "data", run=tmp_path / "run", config=config)


def test_one_override_may_be_named_alone(tmp_path):
    with pytest.raises(RecipeError, match=r"model: found 'None!'"):
        stages.train(data=tmp_path, run=tmp_path, config="conf/resnet34.yaml", overrides="model=None!")
