"""The recipe for VoxCeleb on a miniature one, in every layout that users have."""

import functools
import gzip
import hashlib
import http.server
import logging
import runpy
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import numpy as np
import pytest

from wespeaker_qm.audio.io import read_audio
from wespeaker_qm.corpora.voxceleb import files as voxceleb_files
from wespeaker_qm.corpora.voxceleb.files import _decompress
from wespeaker_qm.corpora.voxceleb.prepare import SUBSET_FILE
from wespeaker_qm.corpus.archives import archive_files, list_tar, list_zip, read_member
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.stages import prepare
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "egs" / "voxceleb"
SETS = {"vox2_dev": (4, 24), "vox1": (3, 18), "musan": (3, 3), "rirs": (3, 4)}


@pytest.fixture(scope="module")
def miniature(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vox") / "miniature"
    runpy.run_path(str(ROOT / "tools" / "make_miniature_voxceleb.py"))["make_miniature"](tiny_corpus, out, 1000)
    return out


@pytest.fixture
def copied(miniature: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(miniature, tmp_path / "root"))


def _prepare(root: Path, data: Path, **options: object) -> Path:
    prepare(recipe_dir=RECIPE, data=DataFolder(data), options={"vox_root": root, **options})
    return data


def _sizes(data: Path) -> dict[str, tuple[int, int]]:
    sets = {name: DataDir.read(data / name) for name in SETS}
    return {name: (len(one.speakers), len(one)) for name, one in sets.items()}


def _join(root: Path) -> None:
    for stem in ("vox2_dev_aac", "vox1_dev_wav"):
        parts = archive_files(root / f"{stem}.zip")
        (root / f"{stem}.zip").write_bytes(b"".join(part.read_bytes() for part in parts))
        for part in parts:
            part.unlink()


def _unpack(root: Path, merged: bool) -> None:
    _join(root)
    targets = {
        "vox2_dev_aac.zip": "voxceleb2" if merged else "VoxCeleb2/all",
        "vox1_dev_wav.zip": "voxceleb1" if merged else "VoxCeleb1/dev",
        "vox1_test_wav.zip": "voxceleb1" if merged else "VoxCeleb1/test",
        "rirs_noises.zip": ".",
    }
    for name, target in targets.items():
        with zipfile.ZipFile(root / name) as archive:
            archive.extractall(root / target)
        (root / name).unlink()
    shutil.unpack_archive(root / "musan.tar.gz", root, filter="data")
    (root / "musan.tar.gz").unlink()


def _to_lmdb(root: Path) -> None:
    _unpack(root, merged=True)
    for kind, folder in (("musan", "musan"), ("rirs", "RIRS_NOISES")):
        files = sorted((root / folder).rglob("*.wav"))
        target = root / "data" / kind / "lmdb"
        target.mkdir(parents=True)
        with lmdb.open(str(target), map_size=1 << 26) as database, database.begin(write=True) as transaction:
            for file in files:
                transaction.put("/".join(file.parts[-3:]).encode(), file.read_bytes())
        shutil.rmtree(root / folder)


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "parts": lambda root: None,
    "zips": _join,
    "trees, dev and test apart": functools.partial(_unpack, merged=False),
    "trees, dev and test merged": functools.partial(_unpack, merged=True),
    "lmdb": _to_lmdb,
}


def test_every_layout_gives_the_same_corpus(miniature: Path, tmp_path: Path) -> None:
    packed: dict[str, dict[str, bytes]] = {}
    for name, change in LAYOUTS.items():
        root = tmp_path / name / "root"
        shutil.copytree(miniature, root)
        change(root)
        data = _prepare(root, tmp_path / name / "data")
        assert _sizes(data) == SETS, name
        for set_name in SETS:
            pack_data_dir(data / set_name, silence_peak_db=-np.inf)
        packed[name] = {
            str(path.relative_to(data)): path.read_bytes()
            for path in sorted([*data.glob("*/shards/*.tar"), *data.glob("trials/*"), *data.glob("*/utt2spk")])
        }
    for name, files in packed.items():
        assert files.keys() == packed["parts"].keys()
        assert files == packed["parts"], name


def test_keys_and_trials_are_the_published_ones(
    miniature: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = _prepare(miniature, tmp_path / "data")
    assert "3 speakers to evaluate are too few to tell how others fare" in caplog.text
    assert caplog.text.rstrip().endswith("for which it takes 5; fetch more of VoxCeleb1")
    vox1 = DataDir.read(data / "vox1")
    published = [line.split() for line in (miniature / "list_test_hard2.txt").read_text().splitlines()]
    written = [line.split() for line in (data / "trials" / "vox1_H_cleaned").read_text().splitlines()]
    assert [(one, two, "target" if label == "1" else "nontarget") for label, one, two in published] == [
        tuple(row) for row in written
    ]
    assert {key for row in written for key in row[:2]} <= vox1.wav.keys()
    assert all(vox1.speaker[key] == key.split("/")[0] for key in vox1.wav)
    info = CorpusInfo.load(data)
    assert list(info.trials) == list(voxceleb_files.TRIAL_LISTS)
    assert info.headline == "vox1_H_cleaned"
    assert info.caveat == (
        "A subset of VoxCeleb (4 training and 3 evaluation speakers): not comparable with published figures."
    )


def test_packed_audio_is_the_archives_audio_for_any_number_of_workers(miniature: Path, tmp_path: Path) -> None:
    data = _prepare(miniature, tmp_path / "data")
    member = next(list_zip(miniature / "vox2_dev_aac.zip"))
    tars = []
    for num_workers, codec in ((1, "flac"), (2, "flac"), (1, "wav")):
        shutil.rmtree(data / "vox2_dev" / "shards", ignore_errors=True)
        pack_data_dir(data / "vox2_dev", codec=codec, num_workers=num_workers, utterances_per_shard=10)
        tars.append(b"".join(path.read_bytes() for path in sorted((data / "vox2_dev" / "shards").glob("*.tar"))))
        reader = ShardReader(data / "vox2_dev" / "shard.list")
        (tmp_path / "one.m4a").write_bytes(read_member(member.locator))
        expected, rate = read_audio(tmp_path / "one.m4a")
        key = "/".join(member.name.split("/")[-3:]).replace(".m4a", ".wav")
        assert rate == 16000
        np.testing.assert_allclose(reader.read(reader.index_of(key)), expected, atol=0.5 / 32768 + 1e-7)
    assert tars[0] == tars[1]


def test_a_damaged_member_is_listed_with_its_reason(copied: Path, tmp_path: Path) -> None:
    _join(copied)
    archive = copied / "vox1_test_wav.zip"
    member = next(list_zip(archive))
    offset = int(member.locator.split(":")[1])
    content = bytearray(archive.read_bytes())
    content[offset + 200] ^= 255
    archive.write_bytes(content)
    data = _prepare(copied, tmp_path / "data")
    with pytest.raises(RecipeError, match="1 of 18 recordings cannot be used"):
        pack_data_dir(data / "vox1")
    assert "damaged in the archive" in (data / "vox1" / "bad_audio.tsv").read_text()
    pack_data_dir(data / "vox1", max_bad_fraction=0.1)
    assert len(ShardReader(data / "vox1" / "shard.list")) == 17


def test_the_best_copy_of_an_utterance_is_taken(copied: Path, tmp_path: Path) -> None:
    member = next(list_zip(copied / "vox2_dev_aac.zip"))
    speaker, video, file = member.name.split("/")[-3:]
    folder = copied / "converted" / speaker / video
    folder.mkdir(parents=True)
    for suffix in (".wav", ".flac", ".m4a"):
        (folder / file).with_suffix(suffix).write_bytes(b"whatever")
    wav = DataDir.read(_prepare(copied, tmp_path / "data") / "vox2_dev").wav
    assert len(wav) == SETS["vox2_dev"][1]
    assert wav[f"{speaker}/{video}/{file[:-4]}.wav"] == str(folder / f"{file[:-4]}.wav")


def test_voxceleb2_test_speakers_stay_out_of_training(copied: Path, tmp_path: Path) -> None:
    _unpack(copied, merged=True)
    folder = next((copied / "voxceleb2").rglob("id00012"))
    (copied / "vox2_meta.csv").write_text("VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid00012 ,n000012 ,m ,test\n")
    assert folder.is_dir()
    data = _prepare(copied, tmp_path / "data")
    assert "id00012" not in DataDir.read(data / "vox2_dev").speakers
    assert CorpusInfo.load(data).validation == "vox2_test"
    assert DataDir.read(data / "vox2_test").speakers == ["id00012"]


def test_only_folders_below_vox_root_say_what_a_tree_is(copied: Path, tmp_path: Path) -> None:
    _unpack(copied, merged=False)
    root = tmp_path / "test" / "musan" / "root"
    shutil.copytree(copied, root)
    (root / "VoxCeleb1" / "loop").symlink_to(root)
    assert _sizes(_prepare(root, tmp_path / "data")) == SETS


def test_audio_that_is_no_utterance_of_a_speaker_is_told(
    copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copied / "more" / "id00099").mkdir(parents=True)
    (copied / "more" / "id00099" / "astray.wav").write_bytes(b"whatever")
    assert _sizes(_prepare(copied, tmp_path / "data")) == SETS
    assert "1 audio file is left alone, expected id?????/video/utterance" in caplog.text
    assert "astray.wav" in caplog.text


def test_an_interrupted_download_that_left_a_gap_between_parts_is_resumed(
    served: str, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (copied / "vox2_dev_aac_partab").read_bytes()
    (copied / "vox2_dev_aac_partab").unlink()
    (copied / "vox2_dev_aac_partab.partial").write_bytes(content[:100])
    row = {"file": "vox2_dev_aac_partab", "source": "voxceleb2", "md5": hashlib.md5(content).hexdigest()}
    monkeypatch.setattr(voxceleb_files, "read_tsv", lambda *_: [row])
    settings = {"sources": {"voxceleb2": [f"{served}/{{file}}"]}}
    with pytest.raises(RecipeError, match="no vox2_dev_aac_partab"):
        _prepare(copied, tmp_path / "data", **settings)
    assert _sizes(_prepare(copied, tmp_path / "data", download=True, **settings)) == SETS


def test_less_than_voxceleb_is_an_error_unless_it_is_called_a_subset(copied: Path, tmp_path: Path) -> None:
    (copied / SUBSET_FILE).unlink()
    with pytest.raises(RecipeError, match=r"(?s)vox2_dev.*expected 5,994.*1,092,009.*vox1_H_cleaned.*expected 550,894"):
        _prepare(copied, tmp_path / "data")
    assert not (tmp_path / "data" / "corpus.yaml").exists()
    assert "subset" in CorpusInfo.load(_prepare(copied, tmp_path / "data", subset=True)).caveat
    _join(copied)
    exact = {"expected": {name: list(size) for name, size in SETS.items()}}
    assert CorpusInfo.load(_prepare(copied, tmp_path / "exact", **exact)).caveat == ""
    (copied / "vox1_test_wav.zip").unlink()
    with pytest.raises(RecipeError, match=r"trials name \d+ utterances that VoxCeleb1 here does not hold"):
        _prepare(copied, tmp_path / "lost", expected={})


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("vox2_dev*", "found no VoxCeleb2 dev"),
        ("vox1_*", "found no VoxCeleb1"),
        ("musan*", "found no MUSAN"),
        ("rirs*", "found no RIRS_NOISES"),
        ("list_test_hard2.txt", "found no trial list list_test_hard2.txt"),
    ],
)
def test_what_is_missing_is_named(copied: Path, tmp_path: Path, pattern: str, message: str) -> None:
    for path in copied.glob(pattern):
        path.unlink()
    with pytest.raises(RecipeError, match=message):
        _prepare(copied, tmp_path / "data")


def test_without_augmentation_neither_noise_nor_rirs_are_wanted(copied: Path, tmp_path: Path) -> None:
    for path in (copied / "musan.tar.gz", copied / "rirs_noises.zip"):
        path.unlink()
    info = CorpusInfo.load(_prepare(copied, tmp_path / "data", augmentation=False))
    assert (info.noise, info.rirs) == (None, None)


def _only_vox1_test(root: Path) -> None:
    for pattern in ("vox2*", "musan*", "rirs*", "vox1_dev*", SUBSET_FILE):
        for path in root.glob(pattern):
            path.unlink()


def test_evaluation_alone_needs_voxceleb1_and_the_lists_it_holds(copied: Path, tmp_path: Path) -> None:
    _join(copied)
    held = {Path(member.name).relative_to("wav").as_posix() for member in list_zip(copied / "vox1_test_wav.zip")}
    _only_vox1_test(copied)
    keys = sorted(held)
    rows = [f"1 {keys[0]} {keys[1]}", f"0 {keys[0]} {keys[-1]}"]
    for name in ("veri_test.txt", "veri_test2.txt"):
        (copied / name).write_text("\n".join(rows) + "\n")
    expected = {"vox1": [1251, 153516], "vox1_O": [2], "vox1_O_cleaned": [2]}
    info = CorpusInfo.load(_prepare(copied, tmp_path / "data", eval_only=True, expected=expected))
    assert info.train is None and info.noise is None and info.rirs is None and info.validation is None
    assert list(info.trials) == ["vox1_O", "vox1_O_cleaned"] and info.headline == "vox1_O_cleaned"
    assert info.caveat == "" and info.sets() == ["vox1"]
    assert set(DataDir.read(tmp_path / "data" / "vox1").wav) == held
    assert sorted(path.name for path in (tmp_path / "data" / "trials").iterdir()) == ["vox1_O", "vox1_O_cleaned"]
    pack_data_dir(tmp_path / "data" / "vox1", silence_peak_db=-np.inf)
    with pytest.raises(RecipeError, match=r"vox1_O .*found 2 trials, expected 37,720"):
        _prepare(copied, tmp_path / "other", eval_only=True, expected={**expected, "vox1_O": [37720]})
    with pytest.raises(RecipeError, match="found no VoxCeleb2 dev"):
        _prepare(copied, tmp_path / "data")


def test_evaluation_alone_of_a_subset(copied: Path, tmp_path: Path) -> None:
    _only_vox1_test(copied)
    for name in ("veri_test.txt", "veri_test2.txt"):
        with (copied / name).open("a") as handle:
            handle.write("0 id10001/absent/00001.wav id10002/absent/00001.wav\n")
    with pytest.raises(RecipeError, match=r"all utterances of no trial list; add .* --subset true"):
        _prepare(copied, tmp_path / "data", eval_only=True, expected={})
    info = CorpusInfo.load(_prepare(copied, tmp_path / "data", eval_only=True, subset=True))
    assert info.caveat.startswith("A subset of VoxCeleb (") and "training" not in info.caveat
    for path in (copied / file for file in voxceleb_files.TRIAL_LISTS.values()):
        path.unlink()
    with pytest.raises(RecipeError, match=r"found no trial list \(veri_test.txt"):
        _prepare(copied, tmp_path / "data", eval_only=True, subset=True)


def test_evaluation_alone_downloads_nothing_to_train_on(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[str] = []
    monkeypatch.setattr(voxceleb_files, "download_files", lambda files, _: wanted.extend(file.name for file in files))
    _only_vox1_test(copied)
    (copied / "vox1_test_wav.zip").unlink()
    with pytest.raises(RecipeError, match="found no VoxCeleb1"):
        _prepare(copied, tmp_path / "data", eval_only=True, download=True, access_key="x")
    names = {row["file"] for row in voxceleb_files.read_tsv(RECIPE / "files.tsv", ("file", "source", "md5"))}
    trials = set(voxceleb_files.TRIAL_LISTS.values())
    assert set(wanted) == {name for name in names if name.startswith("vox1_")} | (names & trials)


def test_a_trial_list_that_is_none_is_refused_with_its_line(copied: Path, tmp_path: Path) -> None:
    (copied / "veri_test.txt").write_text("1 a/b/c.wav d/e/f.wav\ntarget a b\n")
    with pytest.raises(RecipeError, match=r"veri_test\.txt:2: found 'target a b', expected '1 enrolment test'"):
        _prepare(copied, tmp_path / "data")


def test_a_second_run_is_skipped_and_new_data_is_not(
    copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    _prepare(copied, tmp_path / "data")
    caplog.clear()
    _prepare(copied, tmp_path / "data")
    assert "nothing changed" in caplog.text
    _join(copied)
    caplog.clear()
    _prepare(copied, tmp_path / "data")
    assert "nothing changed" in caplog.text, "joined parts hold the same"
    lines = (copied / "veri_test.txt").read_text().splitlines(keepends=True)
    (copied / "veri_test.txt").write_text("".join(lines[1:]))
    caplog.clear()
    _prepare(copied, tmp_path / "data")
    assert "nothing changed" not in caplog.text


def test_a_truncated_musan_is_told(copied: Path, tmp_path: Path) -> None:
    content = (copied / "musan.tar.gz").read_bytes()
    (copied / "musan.tar.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(RecipeError, match=r"musan\.tar\.gz: cannot be decompressed .* fetch it again"):
        _prepare(copied, tmp_path / "data")
    assert not (tmp_path / "data" / "archives" / "musan.tar").exists()


def test_an_archive_that_grows_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "musan.tar.gz").write_bytes(gzip.compress(b"\0" * 10_000_000))
    with pytest.raises(RecipeError, match=r"musan\.tar\.gz: more than 100 times its size when decompressed"):
        _decompress(tmp_path / "musan.tar.gz", tmp_path / "musan.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["musan.tar.gz"]


def test_a_damaged_archive_is_told(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(np.random.default_rng(0).bytes(100_000)))
    content[20:40] = bytes(20)
    (tmp_path / "musan.tar.gz").write_bytes(content)
    with pytest.raises(RecipeError, match=r"musan\.tar\.gz: cannot be decompressed .* fetch it again"):
        _decompress(tmp_path / "musan.tar.gz", tmp_path / "musan.tar")


@pytest.fixture
def served(miniature: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(miniature))
    handler.func.log_message = lambda *_: None  # type: ignore[method-assign]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients may hang up
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_is_missing_is_downloaded(
    miniature: Path, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = voxceleb_files.read_tsv(RECIPE / "files.tsv", ("file", "source", "md5"))
    here = [row for row in rows if (miniature / row["file"]).is_file()]
    digest = {row["file"]: hashlib.md5((miniature / row["file"]).read_bytes()).hexdigest() for row in here}
    monkeypatch.setattr(voxceleb_files, "read_tsv", lambda *_: [{**row, "md5": digest[row["file"]]} for row in here])
    sources = {
        source: ["http://127.0.0.1:9/{key}/{file}", f"{served}/{{file}}"] for source in {r["source"] for r in rows}
    }
    settings = {"sources": sources}
    root = tmp_path / "root"
    shutil.copytree(miniature, root, ignore=shutil.ignore_patterns("*parta*", "musan*", "list_test_hard*"))
    data = _prepare(root, tmp_path / "data", download=True, **settings)
    assert _sizes(data) == SETS
    there, here_too = ({path.name for path in folder.glob("[!.]*")} for folder in (root, miniature))
    assert there == here_too
    only_keyed = {**settings, "sources": {source: [urls[0]] for source, urls in sources.items()}}
    (root / "musan.tar.gz").unlink()
    with pytest.raises(RecipeError, match=r"sources\.musan all want an access key"):
        _prepare(root, tmp_path / "data", download=True, **only_keyed)


def test_musan_is_decompressed_once(copied: Path, tmp_path: Path) -> None:
    data = _prepare(copied, tmp_path / "data")
    tar = data / "archives" / "musan.tar"
    changed_ns = tar.stat().st_mtime_ns
    assert len(list(list_tar(tar))) == SETS["musan"][1]
    _prepare(copied, data)
    assert tar.stat().st_mtime_ns == changed_ns
