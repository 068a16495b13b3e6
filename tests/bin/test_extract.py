"""train, average and extract as subcommands, on the tiny corpus."""

import argparse
import itertools
import logging
import os
import shutil
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import torch

from wespeaker_qm.audio.io import read_audio, write_wav
from wespeaker_qm.audio.source import AudioError
from wespeaker_qm.bin import average, extract, pack, score, train
from wespeaker_qm.config import Config, load_config
from wespeaker_qm.corpus.bad_audio import check_audio
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.embed.extract import NetworkEmbedder
from wespeaker_qm.network import build, checkpoint
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.utils.checksums import checksum_path
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import RunFolder
from wespeaker_qm.utils.tables import read_numbers


def call(module, *arguments):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    module.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def run_dir(tiny_corpus: Path, tiny_config: Config, tmp_path: Path) -> Path:
    config = tmp_path / "conf.yaml"
    tiny_config.save(config)
    call(train, "--data", tiny_corpus, "--exp_dir", tmp_path / "run", "--config", config, "--set", "num_avg=2")
    call(average, "--exp_dir", tmp_path / "run")
    return tmp_path / "run"


def test_every_system_has_a_folder_of_its_own_and_all_utterances(run_dir: Path, tiny_corpus: Path, caplog) -> None:
    systems = {(): run_dir, ("--epoch", 1): run_dir / "model_1", ("--untrained",): run_dir / "untrained"}
    for options in systems:
        call(extract, "--data", tiny_corpus, "--exp_dir", run_dir, *options)
    call(extract, "--data", tiny_corpus, "--exp_dir", run_dir.parent / "ltas", "--ltas")
    systems["--ltas",] = run_dir.parent / "ltas"
    first = []
    for folder in systems.values():
        train_set = kaldiio.load_scp(str(folder / "embeddings" / "train" / "xvector.scp"))
        evaluation = kaldiio.load_scp(str(folder / "embeddings" / "eval" / "xvector.scp"))
        assert (len(train_set), len(evaluation)) == (24, 18)
        mean = np.mean([train_set[key] for key in train_set], axis=0)
        np.testing.assert_allclose(np.load(folder / "embeddings" / "mean_vec.npy"), mean, atol=1e-5)
        first.append(evaluation["e0-0"])
    for one, other in itertools.pairwise(first):
        assert one.shape != other.shape or not np.allclose(one, other)

    with caplog.at_level(logging.INFO, "wespeaker_qm"):
        call(extract, "--data", tiny_corpus, "--exp_dir", run_dir)
    assert caplog.text.count("nothing changed since the last run, skipped") == 2


def test_digital_silence_is_left_out_or_counts_as_in_wespeaker(run_dir: Path, tiny_corpus: Path, tmp_path, caplog):
    data = tmp_path / "data"
    shutil.copytree(tiny_corpus, data)
    reader = ShardReader(tiny_corpus / "eval" / "shard.list")
    lists = DataDir.read(data / "eval")
    outside, inside = (reader.read(reader.index_of(key)) for key in ("e0-0", "e1-1"))
    waves = {"e0-0": np.concatenate([np.zeros(8000), outside]), "e1-1": np.insert(inside, 5000, np.zeros(8000))}
    for key, wave in waves.items():
        write_wav(tmp_path / f"{key}.wav", wave.astype(np.float32), 16000)
        lists.wav[key] = str(tmp_path / f"{key}.wav")
    lists.write(data / "eval")
    pack_data_dir(data / "eval")

    def embeddings(*options):
        with caplog.at_level(logging.INFO, "wespeaker_qm"):
            caplog.clear()
            call(extract, "--data", data, "--exp_dir", run_dir, *options)
        return dict(kaldiio.load_scp(str(run_dir / "embeddings" / "eval" / "xvector.scp")))

    trimmed = embeddings()
    bandwidths = read_numbers(RunFolder(run_dir).bandwidths("eval"), "Hz")
    assert list(bandwidths) == sorted(trimmed)
    assert all(1000 < value <= 8000 for value in bandwidths.values())
    assert not RunFolder(run_dir).bandwidths("train").exists()
    assert "2 of 18 utterances have digital silence in them" in caplog.text
    embeddings("--untrained")
    assert "digital silence" not in caplog.text, "said of the set already"
    kept = embeddings("--trim_silence", "false")  # the option that the message names
    assert "stage extract eval: done again, because trim_silence: was True, now False" in caplog.text
    assert "digital silence" not in caplog.text
    config = load_config([RunFolder(run_dir).config])
    encoder = build.build_encoder(config)
    checkpoint.load_encoder(encoder, checkpoint.load(RunFolder(run_dir).average), RunFolder(run_dir).average)
    plain = NetworkEmbedder(encoder, build.build_fbank(config, dither=0.0), torch.device("cpu"))
    packed = ShardReader(data / "eval" / "shard.list")
    for key in trimmed:
        np.testing.assert_allclose(kept[key], plain([packed.read(packed.index_of(key))])[0], atol=1e-5)
        assert np.array_equal(trimmed[key], kept[key]) == (key not in waves)


def replaced(path: Path, change) -> None:
    """Put other content of the same size in a file, and its old times back: what rsync and cp -p can do."""
    status = path.stat()
    content = change(path.read_bytes())
    assert len(content) == status.st_size
    path.write_bytes(content)
    checksum_path(path).unlink(missing_ok=True)  # by somebody else's program
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_checkpoints_and_weights_count_by_content(run_dir: Path, tiny_corpus: Path, tmp_path: Path, caplog) -> None:
    call(extract, "--data", tiny_corpus, "--exp_dir", run_dir)
    average_path, scp = RunFolder(run_dir).average, run_dir / "embeddings" / "eval" / "xvector.scp"
    before, embedding = checkpoint.load(average_path), kaldiio.load_scp(str(scp))["e0-0"]
    other = checkpoint.load(RunFolder(run_dir).model(1))
    checkpoint.save(other, tmp_path / "model_3.pt")  # the same name, of which the zip holds a part
    content = (tmp_path / "model_3.pt").read_bytes()
    replaced(RunFolder(run_dir).model(3), lambda old: content)
    with caplog.at_level(logging.INFO, "wespeaker_qm"):
        call(average, "--exp_dir", run_dir)
        call(extract, "--data", tiny_corpus, "--exp_dir", run_dir)
    assert "stage average: done again, because models/model_3.pt: changed" in caplog.text
    assert "stage extract eval: done again, because models/avg_model.pt: changed" in caplog.text
    assert not torch.equal(checkpoint.load(average_path)["seg_1.weight"], before["seg_1.weight"])
    assert not np.allclose(kaldiio.load_scp(str(scp))["e0-0"], embedding)


def test_embeddings_of_older_weights_are_not_scored(run_dir: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    call(extract, "--data", tiny_corpus, "--exp_dir", run_dir)
    call(score, "--data", tiny_corpus, "--exp_dir", run_dir)
    shutil.copy(RunFolder(run_dir).model(1), RunFolder(run_dir).model(3))
    checksum_path(RunFolder(run_dir).model(3)).unlink()
    with pytest.raises(RecipeError, match="stage average must run again"):
        call(score, "--data", tiny_corpus, "--exp_dir", run_dir)
    call(average, "--exp_dir", run_dir)
    with pytest.raises(RecipeError, match=r"stage extract_eval must run again .*models/avg_model\.pt: changed"):
        call(score, "--data", tiny_corpus, "--exp_dir", run_dir)
    call(extract, "--data", tiny_corpus, "--exp_dir", run_dir)
    call(score, "--data", tiny_corpus, "--exp_dir", run_dir)
    for epoch in (2, 3):  # to save space: what is gone tells nothing against the average
        RunFolder(run_dir).model(epoch).unlink()
    call(score, "--data", tiny_corpus, "--exp_dir", run_dir)


def test_an_average_that_somebody_replaced_is_neither_kept_in_silence_nor_overwritten(run_dir: Path) -> None:
    path = RunFolder(run_dir).average
    replaced(path, lambda old: old[:-1] + bytes([old[-1] ^ 1]))
    before = path.read_bytes()
    with pytest.raises(RecipeError, match=r"avg_model\.pt: not what was averaged here"):
        call(average, "--exp_dir", run_dir)
    assert path.read_bytes() == before
    path.unlink()
    call(average, "--exp_dir", run_dir)


@pytest.mark.parametrize("name", ["eval/xvector.ark", "eval/xvector.scp", "mean_vec.npy"])
def test_lost_and_foreign_embeddings_are_extracted_again(run_dir: Path, tiny_corpus: Path, name: str) -> None:
    """The mean too, which another corpus with another training set would leave there."""
    call(extract, "--data", tiny_corpus, "--exp_dir", run_dir)
    path = run_dir / "embeddings" / name
    before = path.read_bytes()
    replaced(path, lambda old: old[:-1] + bytes([old[-1] ^ 1]))
    call(extract, "--data", tiny_corpus, "--exp_dir", run_dir)
    assert path.read_bytes() == before
    path.unlink()
    call(extract, "--data", tiny_corpus, "--exp_dir", run_dir)
    assert path.read_bytes() == before


def test_a_run_under_another_path_is_not_done_again(run_dir: Path, tiny_corpus: Path, tmp_path: Path, caplog) -> None:
    call(extract, "--data", tiny_corpus, "--exp_dir", run_dir)
    moved = shutil.copytree(run_dir, tmp_path / "moved")
    with caplog.at_level(logging.INFO, "wespeaker_qm"):
        call(average, "--exp_dir", moved)
        call(extract, "--data", tiny_corpus, "--exp_dir", moved)
    assert caplog.text.count("nothing changed since the last run, skipped") == 3


def test_given_initial_weights_are_no_untrained_network(
    tiny_corpus: Path, tiny_config: Config, tmp_path: Path, caplog
) -> None:
    config, run = tmp_path / "conf.yaml", tmp_path / "run"
    tiny_config.save(config)
    torch.manual_seed(7)
    given = build.build_encoder(tiny_config)
    checkpoint.save(given.state_dict(), tmp_path / "given.pt")
    options = ["--data", tiny_corpus, "--exp_dir", run]
    call(train, *options, "--config", config, "--set", f"model_init={tmp_path / 'given.pt'}", "num_epochs=1")
    call(average, "--exp_dir", run)
    for system in ("--untrained", "--initial"):
        call(extract, *options, system)
    found = {
        name: kaldiio.load_scp(str(run / name / "embeddings" / "eval" / "xvector.scp"))["e0-0"]
        for name in ("untrained", "initial")
    }
    reader = ShardReader(tiny_corpus / "eval" / "shard.list")
    waveform = reader.read(reader.index_of("e0-0"))
    torch.manual_seed(tiny_config.seed)
    for name, encoder in {"untrained": build.build_encoder(tiny_config), "initial": given}.items():
        embed = NetworkEmbedder(encoder, build.build_fbank(tiny_config, dither=0.0), torch.device("cpu"))
        np.testing.assert_allclose(found[name], embed([waveform])[0], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.fixture
def run_from_given(tiny_corpus: Path, tiny_config: Config, tmp_path: Path) -> tuple[Path, Path]:
    """A run, and the file of the weights that its training began with."""
    config, run, given = tmp_path / "conf.yaml", tmp_path / "run", tmp_path / "given.pt"
    tiny_config.save(config)
    checkpoint.save(build.build_encoder(tiny_config).state_dict(), given)
    options = ["--data", tiny_corpus, "--exp_dir", run, "--config", config]
    call(train, *options, "--set", f"model_init={given}", "num_epochs=1")
    call(average, "--exp_dir", run)
    return run, given


def test_initial_weights_that_changed_are_refused(run_from_given, tiny_corpus: Path, tiny_config: Config) -> None:
    run, given = run_from_given
    checkpoint.save(build.build_encoder(tiny_config).state_dict(), given)
    with pytest.raises(RecipeError, match=r"given\.pt: not the weights that .* was trained from"):
        call(extract, "--data", tiny_corpus, "--exp_dir", run, "--initial")


def test_initial_weights_that_are_gone_stop_nothing(run_from_given, tiny_corpus: Path, caplog) -> None:
    """What was made of them is kept; before anything was, the run goes on without their baseline."""
    run, given = run_from_given
    options = ["--data", tiny_corpus, "--exp_dir", run]
    moved = given.rename(given.with_name("moved.pt"))
    call(extract, *options)
    call(extract, *options, "--untrained")
    call(extract, *options, "--initial")
    assert "given.pt: absent, so the baseline of the weights that the training began with is left out" in caplog.text
    assert not (run / "initial").exists()  # by which run.sh knows that there is no such baseline

    moved.rename(given)
    call(extract, *options, "--initial")
    path = run / "initial" / "embeddings" / "eval" / "xvector.ark"
    before = path.read_bytes(), path.stat().st_mtime_ns
    given.unlink()
    with caplog.at_level(logging.INFO, "wespeaker_qm"):
        call(extract, *options, "--initial")
        call(score, "--data", tiny_corpus, "--exp_dir", run / "initial")
    assert caplog.text.count("nothing changed since the last run, skipped") == 2
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before

    replaced(path, lambda old: old[:-1] + bytes([old[-1] ^ 1]))
    with pytest.raises(
        RecipeError, match=r"given\.pt: absent, .*eval: .*not what the stage wrote.* or delete .*initial"
    ):
        call(extract, *options, "--initial")
    shutil.rmtree(run / "initial")
    call(extract, *options, "--initial")


def test_without_initial_weights_there_is_no_such_baseline(run_dir: Path, tiny_corpus: Path, caplog) -> None:
    with caplog.at_level(logging.INFO, "wespeaker_qm"):
        call(extract, "--data", tiny_corpus, "--exp_dir", run_dir, "--initial")
    assert "no initial weights (model_init)" in caplog.text
    assert not (run_dir / "initial").exists()


def test_training_twice_trains_once(run_dir: Path, tiny_corpus: Path, caplog) -> None:
    models = {path: path.stat().st_mtime_ns for path in (run_dir / "models").iterdir()}
    config = run_dir.parent / "conf.yaml"
    arguments = ["--data", tiny_corpus, "--exp_dir", run_dir, "--config", config, "--set", "num_avg=2"]
    with caplog.at_level(logging.INFO, "wespeaker_qm"):
        call(train, *arguments)
    assert "stage train: nothing changed since the last run, skipped" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in (run_dir / "models").iterdir()} == models
    with pytest.raises(RecipeError, match="num_epochs: was 3, now 4"):
        call(train, *arguments, "num_epochs=4")
    with pytest.raises(RecipeError, match="--resume is false"):
        call(train, *arguments, "num_epochs=4", "--resume", "false")


@pytest.fixture
def corpus_with_a_click(tiny_corpus: Path, tmp_path: Path) -> Path:
    """The tiny corpus, whose evaluation set has a recording of 1679 samples: 8 frames, where the network needs 9."""
    data = tmp_path / "clicks"
    shutil.copytree(tiny_corpus, data)
    waveform, _ = read_audio(str(data / "eval" / "wav" / "e0-0.wav"))
    write_wav(data / "eval" / "wav" / "e0-0.wav", waveform[:1679], 16000)
    scp = data / "eval" / "wav.scp"
    scp.write_text(scp.read_text().replace(f"{tiny_corpus}/", f"{data}/"))
    shutil.rmtree(data / "eval" / "shards")
    (data / "eval" / "shard.list").unlink()
    pack_data_dir(data / "eval", num_workers=1)
    return data


def test_what_the_network_cannot_embed_is_refused_before_the_training(
    corpus_with_a_click: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = tmp_path / "conf.yaml"
    tiny_config.save(config)
    with pytest.raises(RecipeError, match=r"1 of 18 utterances has fewer than the 9 frames \(0\.105 s\)") as caught:
        call(train, "--data", corpus_with_a_click, "--exp_dir", tmp_path / "run", "--config", config)
    assert "eval/shard.list" in str(caught.value) and "e0-0" in str(caught.value)
    assert not (tmp_path / "run" / "models").exists()
    with pytest.raises(AudioError, match=r"too short: 0\.105 s"):
        check_audio(corpus_with_a_click / "eval" / "wav" / "e0-0.wav", 0.105, 16000)  # what is recommended refuses it


def test_extraction_names_what_is_too_short_before_it_embeds_anything(corpus_with_a_click: Path, run_dir: Path) -> None:
    with pytest.raises(RecipeError, match=r"eval/shard\.list: 1 of 18 utterances .*\n  e0-0\n.*--min_duration 0\.105"):
        call(extract, "--data", corpus_with_a_click, "--exp_dir", run_dir)
    assert not (run_dir / "embeddings").exists()


def test_audio_of_another_rate_than_the_network_is_refused_with_the_option_that_helps(
    tiny_corpus: Path, run_dir: Path, tmp_path: Path
) -> None:
    """Its features would be of other frequencies, and nobody would be told."""
    data = tmp_path / "slow"
    shutil.copytree(tiny_corpus, data)
    for name in ("train", "eval"):
        shutil.rmtree(data / name / "shards")
        (data / name / "shard.list").unlink()
    call(pack, "--data", data, "--sample_rate", 8000, "--num_workers", 1)
    with pytest.raises(RecipeError, match=r"8000 Hz, but the network expects 16000; .*--sample_rate 16000"):
        call(extract, "--data", data, "--exp_dir", run_dir)
    call(pack, "--data", data, "--sample_rate", 16000, "--num_workers", 1)
    call(extract, "--data", data, "--exp_dir", tmp_path / "evaluated", "--model", run_dir)
