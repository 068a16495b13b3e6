"""Scores of several systems on the same trials."""

import numpy as np
import pytest

from wespeaker_qm.trials.systems import read_systems
from wespeaker_qm.utils.errors import RecipeError


@pytest.fixture
def files(tmp_path):
    (tmp_path / "one").write_text("s/1 s/2 0.5 target\ns/1 t/1 0.25 nontarget\n")
    (tmp_path / "two").write_text("s/1 t/1 2\ns/1 s/2 1\n")  # another order, and no labels
    (tmp_path / "list").write_text("1 s/1 s/2\n0 s/1 t/1\n")
    (tmp_path / "utt2spk").write_text("s/1 a\ns/2 a\nt/1 b\n")
    return tmp_path


def test_without_a_list_the_first_file_says_which_trials_there_are(files):
    trials, scores, speakers = read_systems({"x": files / "one", "y": files / "two"}, None, None)
    assert trials.path == files / "one"
    assert {name: values.tolist() for name, values in scores.items()} == {"x": [0.5, 0.25], "y": [1, 2]}
    assert speakers is not None
    np.testing.assert_array_equal(speakers.test, [0, 1])  # by the folders in the names
    with pytest.raises(RecipeError, match=r"two: the file has no labels.*--trials"):
        read_systems({"y": files / "two"}, None, None)


def test_a_list_and_its_speakers_are_those_of_all(files):
    trials, scores, speakers = read_systems({"y": files / "two"}, files / "list", files / "utt2spk")
    assert trials.path == files / "list"
    assert scores["y"].tolist() == [1, 2]
    assert speakers is not None
    assert speakers.num_speakers == 2
    (files / "utt2spk").write_text("s/1 a\ns/2 b\nt/1 b\n")
    with pytest.raises(RecipeError, match="1 label disagrees with utt2spk"):
        read_systems({"y": files / "two"}, files / "list", files / "utt2spk")


def test_where_nothing_depends_on_speakers_nothing_is_asked_about_them(files, caplog):
    (files / "below").write_text("wav/a/1 wav/a/2 0.5 target\nwav/a/1 wav/b/1 0.25 nontarget\n")
    assert read_systems({"x": files / "below"}, None, None, with_speakers=False).speakers is None
    assert read_systems({"x": files / "one"}, None, files / "absent", with_speakers=False).speakers is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("oen", None, None), r"/oen: no such file, expected a score file; the nearest names there are one, "),
        (("no/one", None, None), r"/no/one: no such file, expected a score file; there is no folder .*/no either"),
        ((".", None, None), r"found a folder, expected a score file; name a file in it"),
        (("/dev/null", None, None), r"/dev/null: is a pipe, a socket or a device, expected a score file"),
        (("one", "lsit", None), r"/lsit: no such file, expected a trial list \(--trials\); the nearest .* list, "),
        (("one", "list", "utt"), r"/utt: no such file, expected a table of speakers \(--utt2spk\); .* utt2spk"),
    ],
)
def test_a_file_that_is_not_there_is_said_to_be_so(files, arguments, message):
    """No stage need have made what somebody names on a command line."""
    scores, *others = (None if name is None else files / name for name in arguments)
    with pytest.raises(RecipeError, match=message) as caught:
        read_systems({"x": scores}, *others)
    assert "stage" not in str(caught.value)


def test_in_an_empty_folder_no_name_is_near(tmp_path):
    with pytest.raises(RecipeError, match="there is no file at all in that folder"):
        read_systems({"x": tmp_path / "one"}, None, None)


def test_names_that_only_look_the_same_are_told(tmp_path):
    """As macOS lists files, beside a list that somebody has typed."""
    composed, decomposed = "Jos\N{LATIN SMALL LETTER E WITH ACUTE}", "Jose\N{COMBINING ACUTE ACCENT}"
    (tmp_path / "one").write_text(f"{decomposed}/1 {decomposed}/2 0.5\n{decomposed}/1 t/1 0.25\n")
    (tmp_path / "list").write_text(f"1 {composed}/1 {composed}/2\n0 {composed}/1 t/1\n")
    with pytest.raises(RecipeError, match=r"have no score; 2 of them are there in another form of Unicode"):
        read_systems({"x": tmp_path / "one"}, tmp_path / "list", None)
    (tmp_path / "list").write_text(f"1 {decomposed}/1 {decomposed}/2\n0 {decomposed}/1 t/1\n")
    (tmp_path / "utt2spk").write_text(f"{composed}/1 a\n{composed}/2 a\nt/1 b\n")
    with pytest.raises(RecipeError, match=r"not in utt2spk .*; 2 of them are there in another form of Unicode"):
        read_systems({"x": tmp_path / "one"}, tmp_path / "list", tmp_path / "utt2spk")
