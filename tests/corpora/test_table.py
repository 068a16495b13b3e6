"""Adding a corpus is a dataclass of settings, a function and a row: done here with a corpus of tones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

from wespeaker_qm import stages
from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.bin.main import main
from wespeaker_qm.corpora.settings import Setting
from wespeaker_qm.corpora.table import CORPORA, Corpus
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo, prepared_files
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.trials.lists import make_trials, write_trials
from wespeaker_qm.utils.arguments import COUNT
from wespeaker_qm.utils.done import DoneMarker
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.stage import stage


@dataclass(frozen=True, kw_only=True)
class ToneSettings:
    pitch_hz: Annotated[int, Setting(COUNT, "of the first speaker")] = 100
    name: Annotated[str, Setting(str)]


def prepare_tones(settings: ToneSettings, *, data: DataFolder, recipe_dir: Path, num_workers: int) -> None:
    marker = DoneMarker(data.marker("prepare"), {"pitch_hz": settings.pitch_hz}, prepared_files(data))
    sets = [data.set(name).path for name in ("train", "eval")]
    others = [data.trials("all"), data.wav, *(table for one in sets for table in DataDir.tables(one))]
    with stage("prepare", marker, others=others) as is_due:
        if not is_due:
            return
        for path in sets:
            wav, speaker = {}, {}
            for number in range(3):
                for take in range(2):
                    key = f"{path.name}{number}-{take}"
                    wav[key], speaker[key] = str(data.wav / f"{key}.wav"), f"{path.name}{number}"
                    tone = 0.5 * np.sin(settings.pitch_hz * (1 + number + take / 9) * np.arange(8000) / 1000)
                    write_wav(wav[key], tone.astype(np.float32), 8000)
            DataDir(wav=wav, speaker=speaker).write(path)
        write_trials(data.trials("all"), make_trials(speaker))
        CorpusInfo(name=settings.name, trials={"all": "eval"}, headline="all").save(data.info)


@pytest.fixture
def recipe_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(CORPORA, "tones", Corpus(ToneSettings, prepare_tones))
    recipe = tmp_path / "egs" / "tones"
    recipe.mkdir(parents=True)
    (recipe / "corpus.yaml").write_text("kind: tones\nname: Tones\npitch_hz: 120\n")
    return recipe


def test_a_registered_corpus_is_prepared_and_packed_by_functions(recipe_dir: Path, tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO")
    data = DataFolder(tmp_path / "data")
    stages.prepare(recipe_dir=str(recipe_dir), data=data, options={"pitch_hz": 200})
    stages.pack(data=data, sample_rate=8000)
    assert CorpusInfo.load(data.info).name == "Tones"
    assert len(ShardReader(data.set("eval").shard_list)) == 6
    stages.prepare(recipe_dir=recipe_dir, data=data, options={"pitch_hz": 200})
    assert "stage prepare: nothing changed" in caplog.text
    with pytest.raises(RecipeError, match="options: unknown key 'pitch'; nearest: pitch_hz"):
        stages.prepare(recipe_dir=recipe_dir, data=data, options={"pitch": 200})


def test_a_registered_corpus_has_its_options_on_the_command_line(
    recipe_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    command = ["prepare", "--corpus", str(recipe_dir), "--data", str(data)]
    assert main(command) == 0
    made = (data / "wav" / "eval0-0.wav").read_bytes()
    assert main([*command, "--pitch_hz", "120"]) == 0
    assert "skipped" in capsys.readouterr().out, "corpus.yaml says the same"
    assert main([*command, "--pitch_hz", "300"]) == 0
    assert (data / "wav" / "eval0-0.wav").read_bytes() != made
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    assert "--pitch_hz PITCH_HZ" in (text := capsys.readouterr().out)
    assert "of the first speaker (default 120)" in text and "--name" not in text
    for wrong, message in (("0", "argument --pitch_hz: found '0'"), ("x", "found 'x', expected a whole number")):
        with pytest.raises(SystemExit) as error:
            main([*command, "--pitch_hz", wrong])
        assert error.value.code == 1
        assert message in capsys.readouterr().err


def test_a_corpus_has_only_its_own_options(recipe_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["prepare", "--corpus", str(recipe_dir), "--num_rooms", "3"])
    assert error.value.code == 1
    assert "--num_rooms" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--corpus"], ["--num_workers", "ten"], ["--data"]])
def test_a_wrong_command_line_is_told_by_the_whole_parser(arguments: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as error:
        main(["prepare", *arguments])
    assert error.value.code == 1
    assert f"argument {arguments[0]}: " in capsys.readouterr().err
