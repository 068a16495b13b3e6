"""corpus.yaml of a prepared corpus, which may be of somebody's own making."""

import pytest
import yaml

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.utils.errors import RecipeError

VALUES = {"name": "own", "headline": "all", "trials": {"all": "eval"}}


def load(folder, **values):
    path = folder / "corpus.yaml"
    path.write_text(yaml.safe_dump({**VALUES, **values}))
    return CorpusInfo.load(path)


def test_what_may_be_left_out(tmp_path):
    assert load(tmp_path, noise=None) == CorpusInfo(**VALUES)


def test_without_training_speakers_there_is_nothing_to_train_on(tmp_path):
    info = load(tmp_path, train=None)
    assert info.sets() == ["eval"]
    info.save(tmp_path / "saved.yaml")
    assert CorpusInfo.load(tmp_path / "saved.yaml") == info
    with pytest.raises(RecipeError, match=r"corpus\.yaml: names no training set .* \(run\.sh --model\)"):
        info.training_set(tmp_path / "corpus.yaml")
    assert load(tmp_path).training_set(tmp_path / "corpus.yaml") == "train"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trials": ["all"]}, r"trials: found \['all'\], expected trial lists, each with"),
        ({"trials": {"all": 5}}, r"trials: found \{'all': 5\}, expected trial lists"),
        ({"trials": {"all": None}}, r"trials: found \{'all': None\}"),
        ({"name": 5}, "name: found 5, expected text"),
        ({"train": 5}, "train: found 5, expected text"),
        ({"name": None}, "name: found None, expected text"),
        ({"validation": ["valid"]}, r"validation: found \['valid'\], expected text"),
        ({"nois": "noise"}, "unknown key 'nois'; nearest: noise"),
    ],
)
def test_what_means_nothing_is_told_with_file_and_key(tmp_path, values, message):
    with pytest.raises(RecipeError, match=rf"corpus\.yaml: {message}"):
        load(tmp_path, **values)


@pytest.mark.parametrize("name", ["1e5", "2024", "null", "a: b", "José", "--data"])
def test_a_corpus_may_have_any_name(tmp_path, name):
    info = CorpusInfo(name=name, description=name, trials={name: name}, headline=name)
    info.save(tmp_path / "corpus.yaml")
    assert CorpusInfo.load(tmp_path) == info
