"""Whatever is damaged in a prepared corpus is found and named, and nothing else is."""

import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import emptied, flip, halved, other_duration, replaced, silently, tar_of, without_first_line

from wespeaker_qm import stages
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.packing.format import INDEX_COLUMNS, index_path, marker_path, write_list
from wespeaker_qm.packing.index_files import facts_path, records_path
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.ownership import LEDGER


def header_of_second_audio(path: Path) -> None:
    with tarfile.open(path) as tar:
        member = [each for each in tar if each.name.endswith(".wav")][1]
    flip(member.offset_data - 512 + 150)(path)  # its own checksum


def other_speaker(path: Path) -> None:
    with tarfile.open(path) as tar:
        member = next(each for each in tar if each.name.endswith(".spk"))
    flip(member.offset_data)(path)


def of_another_speaker(path: Path) -> None:
    replaced(" noise", " music")(path)
    path.with_name("spk2utt").unlink()  # which would contradict it


DATA_DAMAGES: dict[str, tuple[Callable[[DataFolder], Path], Callable[[Path], object], str]] = {
    "audio": (tar_of, flip(6000), r"_000001\.tar: \S+: the CRC-32 of its audio is \w+, expected \w+: damaged; remove"),
    "header": (tar_of, header_of_second_audio, r"_000001\.tar: \S+: no member of the tar at byte \d+, and so of 9 "),
    "speaker in the tar": (tar_of, other_speaker, r"shards_000001\.tar: \S+: its speaker is 'u\d', expected 't\d'"),
    "tar gone": (tar_of, Path.unlink, r"shards_000001\.tar: no such file, expected a tar that "),
    "list of a tar, empty": (
        lambda data: index_path(tar_of(data)),
        lambda path: path.write_text(""),
        r"index\.tsv: damaged, its last line is not the SHA-256",
    ),
    "list of a tar": (lambda data: index_path(tar_of(data)), flip(200), r"index\.tsv: damaged, its last line"),
    "table of the index": (lambda data: records_path(data.set("train").shard_list), flip(300), r"index\.npy: damaged"),
    "facts of the index": (lambda data: facts_path(data.set("train").shard_list), flip(40), r"shard\.index\.json: "),
    "shard.list gone": (lambda data: data.set("train").shard_list, Path.unlink, r"shard\.list: no such file; pack"),
    "another speaker": (
        lambda data: data.set("noise").utt2spk,
        of_another_speaker,
        r"noise/shard\.list: 1 packed recording is of another speaker .*: of 'noise', expected 'music'; pack again",
    ),
    "a table": (lambda data: data.set("eval").utt2spk, without_first_line, r"wav\.scp and .*utt2spk differ in 1 key"),
    "a label": (lambda data: data.trials("all"), replaced(" nontarget", " target"), r"trials/all: 1 label disagrees"),
    "a name": (lambda data: data.trials("all"), replaced("e0-0 ", "e9-9 "), r"trials/all: 1 utterance is not in"),
    "list gone": (lambda data: data.trials("all"), Path.unlink, r"trials/all: "),
    "a duration": (
        lambda data: data.set("train").utt2dur,
        other_duration,
        r"train/utt2dur: 1 of 24 recordings is of another length than what is packed, e\.g\. '\S+': [\d.]+ s, exp",
    ),
    "durations, empty": (lambda data: data.set("eval").utt2dur, emptied, r"eval/utt2dur: found an empty file, exp"),
    "spk2utt": (
        lambda data: data.set("eval").spk2utt,
        without_first_line,
        r"spk2utt: lacks 6 of the 18 utterances of \S+utt2spk, e\.g\. 'e0-0'; correct it, or remove the table",
    ),
    "spk2utt, empty": (lambda data: data.set("eval").spk2utt, emptied, r"eval/spk2utt: found an empty file, expected "),
    "marker of a tar": (
        lambda data: marker_path(tar_of(data)),
        emptied,
        r"done/shards_000001: found an empty file, expected the record of a stage's .*; remove \S+ and pack again",
    ),
    "marker": (
        lambda data: data.marker("prepare"),
        lambda path: write_text(path, '{"inputs": []}'),
        r"\.done/prepare: found another content, expected the record of a stage's .*; remove it and prepare the data",
    ),
    "ledger": (lambda data: data.set("eval").path / LEDGER, emptied, r"/\.wespeaker_qm: found an empty file, exp"),
    "ledger, cut": (
        lambda data: data.set("train").shards / LEDGER,
        halved,
        r"shards/\.wespeaker_qm: found another content, expected the names of ",
    ),
    "corpus.yaml": (lambda data: data.info, replaced("headline:", "headlin:"), r"corpus\.yaml: unknown key 'headlin'"),
}  # fmt: skip


def test_a_whole_corpus_has_no_findings(corpus: DataFolder) -> None:
    assert stages.verify_data(folders=corpus) == []


@pytest.mark.parametrize("kind", DATA_DAMAGES)
def test_damage_of_a_corpus_is_found_and_named(corpus: DataFolder, kind: str) -> None:
    choose, damage, message = DATA_DAMAGES[kind]
    damage(choose(corpus))
    findings = stages.verify_data(folders=corpus)
    about = [finding for finding in findings if re.search(message, finding)]
    assert len(about) == 1, findings
    assert all("\n" not in finding for finding in findings)
    assert len(findings) <= (2 if kind in ("tar gone", "facts of the index") else 1), findings


def test_the_remedy_for_an_emptied_marker_works(corpus: DataFolder) -> None:
    emptied(marker_path(tar_of(corpus)))
    (finding,) = stages.verify_data(folders=corpus)
    (marker,) = re.findall(r"remove (\S+) and pack again", finding)
    Path(marker).unlink()
    stages.pack(data=corpus, utterances_per_shard=10)
    assert stages.verify_data(folders=corpus) == []


def test_durations_are_compared_as_closely_as_programs_count_them(corpus: DataFolder) -> None:
    """Kaldi's are of whole frames, and all are written in a few digits. What was left out is not known."""
    table = corpus.set("train").utt2dur
    rows = [line.split() for line in table.read_text().splitlines()]
    table.write_text("".join(f"{key} {float(seconds) - 0.049:.3f}\n" for key, seconds in rows))
    assert stages.verify_data(folders=corpus) == []
    table.write_text("".join(f"{key} {float(seconds) - 0.051:.3f}\n" for key, seconds in rows))
    (finding,) = stages.verify_data(folders=corpus)
    assert "utt2dur: 24 of 24 recordings are of another length" in finding
    table.unlink()
    assert stages.verify_data(folders=corpus) == [], "as the message says"


def test_the_remedy_for_damaged_audio_works(corpus: DataFolder) -> None:
    """Its time says nothing: stage 2 alone would take it for done."""
    flip(6000)(tar_of(corpus))
    stages.pack(data=corpus, utterances_per_shard=10)
    (finding,) = stages.verify_data(folders=corpus)
    (marker,) = re.findall(r"remove (\S+) and pack again", finding)
    Path(marker).unlink()
    stages.pack(data=corpus, utterances_per_shard=10)
    assert stages.verify_data(folders=corpus) == []


def test_a_copy_whose_lists_name_the_original(corpus: DataFolder) -> None:
    """Of its own tars none is read; packed again, it stands alone."""
    copy = DataFolder(corpus.path.with_name("copy"))
    shutil.copytree(corpus.path, copy.path)
    findings = stages.verify_data(folders=copy)
    assert len(findings) == 4, "a set each"
    assert all(re.search(r"shard\.list: names .*/tiny/\S+, expected .*/copy/.*: a copy", each) for each in findings)
    stages.pack(data=copy, utterances_per_shard=10)
    assert stages.verify_data(folders=copy) == []


def test_every_damaged_recording_is_told_and_a_cut_tar(corpus: DataFolder) -> None:
    tar = tar_of(corpus)
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    findings = stages.verify_data(folders=corpus)
    assert sum("the CRC-32 of its audio" in finding for finding in findings) >= 4
    assert sum("bytes when it was packed" in finding or "but" in finding for finding in findings) >= 1


def test_packed_by_an_earlier_version_without_checksums(corpus: DataFolder) -> None:
    tar = tar_of(corpus)
    rows = [line.split("\t")[:-1] for line in index_path(tar).read_text().splitlines()[1:-1]]
    index_path(tar).write_text("".join("\t".join(row) + "\n" for row in [INDEX_COLUMNS[:-1], *rows]))
    facts_path(corpus.set("train").shard_list).unlink()  # its index was another, too
    (finding,) = stages.verify_data(folders=corpus)
    assert "no checksums stored, in 1 of 3 lists, by an earlier version" in finding
    assert "run stage 2" in finding
    stages.pack(data=corpus, utterances_per_shard=10)
    assert stages.verify_data(folders=corpus) == [], "as the message says"


def test_an_index_of_another_packing(corpus: DataFolder) -> None:
    """Whole, like the list beside the tar, but not made from it."""
    tar = tar_of(corpus)
    rows = [line.split("\t") for line in index_path(tar).read_text().splitlines()[1:-1]]
    rows[2][0] = "t9-9"
    write_list(index_path(tar), [INDEX_COLUMNS, *rows])
    (finding,) = stages.verify_data(folders=corpus)
    assert re.search(r"shard\.index\.npy: .*key='t\d-\d'.*expected .*key='t9-9'", finding)


def test_shards_of_another_program_are_compared_with_what_they_were(corpus: DataFolder) -> None:
    """WeSpeaker writes no lists."""
    for path in (*corpus.set("train").shards.glob("*.tsv"), records_path(corpus.set("train").shard_list)):
        path.unlink()
    facts_path(corpus.set("train").shard_list).unlink()
    assert stages.verify_data(folders=corpus) == []
    flip(6000)(tar_of(corpus))
    (finding,) = stages.verify_data(folders=corpus)
    assert re.search(r"the CRC-32 of its audio .*; make the tar again$", finding)


def test_what_is_trained_on_and_tested(tmp_path: Path, write_set: Any, voice: Any) -> None:
    rng = np.random.default_rng(1)
    waves = {f"{speaker}-{take}": voice(100.0, 0.5, rng) for speaker in "abc" for take in range(2)}
    write_set(tmp_path, "train", {key: (key[0], waves[key]) for key in ("a-0", "a-1", "b-0", "b-1")})
    tested = {key: (key[0], waves[key]) for key in ("c-0", "c-1")}
    write_set(tmp_path, "eval", {**tested, "b-2": ("b", voice(110.0, 0.5, rng)), "d-0": ("d", waves["a-1"])})
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "all").write_text("c-0 c-1 target\nc-0 b-2 nontarget\nc-1 d-0 nontarget\n")
    CorpusInfo(name="tiny", trials={"all": "eval"}, headline="all").save(tmp_path / "corpus.yaml")
    known, heard = stages.verify_data(folders=tmp_path)
    assert re.search(r"eval/utt2spk: 1 of its 3 speakers is trained on .*, e\.g\. 'b', expected none", known)
    assert re.search(r"eval/shard\.list: 1 of its recordings is trained on .*, e\.g\. 'd-0', which is 'a-1' of ", heard)


def test_trials_of_what_was_left_out(corpus: DataFolder, tmp_path: Path) -> None:
    name = corpus.set("eval").wav_scp.read_text().split()[0]
    wav = corpus.set("eval").wav_scp.read_text().split()[1]
    other = tmp_path / "other.wav"
    other.write_bytes(b"no audio")
    replaced(wav, str(other))(corpus.set("eval").wav_scp)
    stages.pack(data=corpus, utterances_per_shard=10, max_bad_fraction=0.5)
    findings = stages.verify_data(folders=corpus)
    assert len(findings) == 2, "two lists"
    assert all(f"1 of its 18 utterances is not packed, e.g. '{name}'" in finding for finding in findings), findings


@pytest.mark.parametrize("name", ["shards_000001.index.tsv", "shards_000002.index.tsv"])
def test_a_lost_list_beside_a_tar(corpus: DataFolder, tmp_path: Path, name: str) -> None:
    """The index says all of it, until that is lost, too."""
    path = corpus.set("train").shards / name
    path.unlink()
    (finding,) = stages.verify_data(folders=corpus)
    assert f"{path}: no such file, expected one beside each tar, as of 2 of 3; " in finding
    (shard_list,) = re.findall(r"; move (\S+) away and pack again", finding)
    Path(shard_list).rename(tmp_path / "away")
    stages.pack(data=corpus, utterances_per_shard=10)
    assert stages.verify_data(folders=corpus) == [], "as the message says"


def test_a_corpus_whose_description_is_a_link_to_nothing(corpus: DataFolder) -> None:
    corpus.info.unlink()
    corpus.info.symlink_to("nothing")
    (finding,) = stages.verify_data(folders=corpus)
    assert f"{corpus.info}: is a link to nothing" in finding


def test_no_more_is_read_than_the_name_of_a_speaker_is_long(corpus: DataFolder) -> None:
    with tarfile.open(tar_of(corpus)) as tar:
        member = [each for each in tar if each.name.endswith(".spk")][-1]
    member.size = 10**12
    header = slice(member.offset, member.offset + 512)
    silently(tar_of(corpus), lambda content: content.__setitem__(header, member.tobuf(tarfile.GNU_FORMAT)))
    findings = stages.verify_data(folders=corpus)
    assert any("its speaker is 't1" in finding for finding in findings), findings
