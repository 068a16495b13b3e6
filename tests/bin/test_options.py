"""Numbers that mean nothing are refused by every program when the command line is parsed, before any work."""

import pytest
import yaml

from wespeaker_qm import stages
from wespeaker_qm.bin.main import main
from wespeaker_qm.corpora.folder.settings import FolderSettings
from wespeaker_qm.corpora.settings import read_settings
from wespeaker_qm.utils.calls import optional_path, paths
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, RunFolder

NUMBERS = {
    ("prepare",): ["num_workers", "max_utterances_per_speaker", "num_babble", "num_rooms"],
    ("prepare", "--corpus", "egs/folder"): [
        *("num_workers", "valid_speakers", "min_duration", "max_bad_fraction", "max_trials"),
        *("num_babble", "num_rooms", "seed"),
    ],
    ("pack", "--data", "d"): [
        *("sample_rate", "utterances_per_shard", "seed", "num_workers", "min_duration", "max_bad_fraction"),
    ],
    ("extract", "--data", "d", "--exp_dir", "e"): ["num_workers", "epoch"],
    ("normalise", "--data", "d", "--exp_dir", "e"): ["top_n"],
    ("calibrate", "--data", "d", "--exp_dir", "e"): ["top_n"],
    ("evaluate", "--data", "d", "--exp_dir", "e"): ["num_resamples", "seed"],
    ("table5",): ["num_resamples", "seed"],
    ("metrics", "x.score"): ["far", "tar", "p_target", "num_resamples", "seed"],
    ("threshold", "x.score"): ["far", "num_resamples", "seed"],
    ("compare", "a=x.score"): ["num_resamples", "seed"],
    ("bench", "head"): ["rounds"],
    ("bench", "loader"): ["rounds", "steps", "batch_size", "num_workers"],
}
OPTIONS = [(command, option) for command, options in NUMBERS.items() for option in options]


def is_refused(command, option, value, capsys):
    try:
        status = main([*command, f"--{option}", value])
    except SystemExit as error:
        status = error.code
    message = capsys.readouterr().err
    return status == 1 and f"argument --{option}: " in message


@pytest.mark.parametrize("value", ["nan", "inf", "-1", str(-(2**64)), "", "ten", "1e400"])
@pytest.mark.parametrize(
    ("command", "option"), OPTIONS, ids=lambda value: value if isinstance(value, str) else value[0]
)
def test_nonsense_is_refused_with_the_options_name(command, option, value, capsys, repository, monkeypatch):
    monkeypatch.chdir(repository)
    assert is_refused(command, option, value, capsys)


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        (("pack", "--data", "d"), "sample_rate", "0"),
        (("pack", "--data", "d"), "utterances_per_shard", "0"),
        (("pack", "--data", "d"), "num_workers", "0"),
        (("pack", "--data", "d"), "max_bad_fraction", "1.01"),
        (("pack", "--data", "d"), "seed", str(2**64)),
        (("prepare", "--corpus", "egs/folder"), "max_trials", "0"),
        (("prepare", "--corpus", "egs/folder"), "valid_speakers", "1.5"),
        (("prepare", "--corpus", "egs/folder"), "num_rooms", "0"),
        (("normalise", "--data", "d", "--exp_dir", "e"), "top_n", "1"),
        (("calibrate", "--data", "d", "--exp_dir", "e"), "top_n", "0"),
        (("evaluate", "--data", "d", "--exp_dir", "e"), "num_resamples", "1"),
        (("metrics", "x.score"), "num_resamples", "100000000000000000000"),
        (("metrics", "x.score"), "far", "1"),
        (("metrics", "x.score"), "p_target", "0"),
        (("extract", "--data", "d", "--exp_dir", "e"), "epoch", "0"),
        (("bench", "loader"), "batch_size", "0"),
    ],
)
def test_a_number_out_of_range_is_refused(command, option, value, capsys, repository, monkeypatch):
    monkeypatch.chdir(repository)
    assert is_refused(command, option, value, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--audio_root", "x"],
            "--audio_root is an option of egs/folder, found --corpus egs/mini; give --corpus egs/fo",
        ),
        (
            ["--vox_root=x"],
            "--vox_root is an option of egs/voxceleb, found --corpus egs/mini; give --corpus egs/voxceleb",
        ),
        (
            ["--corpus", "egs/voxceleb", "--packages", "x"],
            "--packages is an option of egs/mini, found --corpus egs/vox",
        ),
        (["--audio_rot", "x"], "unknown option '--audio_rot'"),
    ],
)
def test_an_option_of_another_corpus_is_told_with_that_corpus(arguments, message, capsys, repository, monkeypatch):
    monkeypatch.chdir(repository)
    with pytest.raises(SystemExit) as error:
        main(["prepare", *arguments])
    assert error.value.code == 1
    assert message in capsys.readouterr().err


def test_the_help_of_prepare_says_where_the_options_of_other_corpora_stand(capsys, repository, monkeypatch):
    monkeypatch.chdir(repository)
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    assert "--corpus DIR --help lists those of DIR (egs/folder, egs/mini, egs/voxceleb)" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--data", "x", "--exp_dir", "", "--config", "x"],
        ["train", "--data=", "--exp_dir", "x", "--config", "x"],
        ["metrics", ""],
        ["metrics", "x", "--json="],
        ["embed", "x", "--model", ""],
        ["verify", "x", ""],
        ["enrol", "", "x.wav"],
        ["prepare", "--corpus", "egs/folder", "--audio_root", ""],
        ["speakers", "--store", ""],
    ],
)
def test_an_empty_text_is_no_path(arguments, capsys, repository, tmp_path, monkeypatch):
    """pathlib takes it for the current folder, into which a script that lost a variable would then train."""
    (tmp_path / "egs").symlink_to(repository / "egs")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == (2 if arguments[0] == "verify" else 1)
    told = capsys.readouterr().err
    assert "found '', expected a value that is not empty" in told and "SUBCOMMAND: found" not in told
    assert [path.name for path in tmp_path.iterdir()] == ["egs"]


def test_an_option_whose_default_is_empty_need_not_be_given(capsys, repository, tmp_path, monkeypatch):
    """VoxCeleb's key of a source: refusing it would refuse the corpus."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VOXCELEB_KEY", raising=False)
    assert main(["prepare", "--corpus", str(repository / "egs" / "voxceleb"), "--vox_root", "none"]) == 1
    assert "none" in capsys.readouterr().err


def test_a_base_that_is_not_there_is_told(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--data", "d", "--exp_dir", "e", "--base", "none.yaml"]) == 1
    assert "--base none.yaml: no such file; name the configuration to compare with" in capsys.readouterr().err


@pytest.mark.parametrize("system", ["foo", 0, True, None])
def test_a_system_that_there_is_not_is_no_bug(tiny_corpus, tmp_path, system):
    with pytest.raises(RecipeError, match=r"system: found .*, expected average, .* or the number of an epoch, from 1"):
        stages.extract(data=tiny_corpus, run=tmp_path, system=system)


def test_an_empty_text_is_no_path_in_python_and_corpus_yaml_either(repository, tmp_path):
    for call in (RunFolder, DataFolder, paths, optional_path):
        with pytest.raises(RecipeError, match="found '' in the place of a path, expected one"):
            call("")
    (tmp_path / "corpus.yaml").write_text("kind: folder\naudio_root: ''\n")
    with pytest.raises(RecipeError, match=r"corpus\.yaml: audio_root: found '', expected a value"):
        read_settings(FolderSettings, tmp_path)


@pytest.mark.parametrize(("key", "value"), [("max_bad_fraction", float("nan")), ("max_trials", 0), ("num_rooms", "x")])
def test_a_corpus_yaml_is_held_to_the_same_limits(key, value, capsys, repository, tmp_path):
    settings = yaml.safe_load((repository / "egs" / "folder" / "corpus.yaml").read_text())
    (tmp_path / "corpus.yaml").write_text(yaml.safe_dump({**settings, key: value}))
    with pytest.raises(SystemExit) as error:
        main(["prepare", "--corpus", str(tmp_path)])
    assert error.value.code == 1
    assert f"corpus.yaml: {key}: found" in capsys.readouterr().err
