"""What was made from something that is another thing now is refused, with the stage that makes it again."""

import zlib
from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.score import upstream
from wespeaker_qm.utils.done import DoneMarker
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS

INFO = CorpusInfo(name="tiny", headline="all", trials={"all": "eval", "hard": "eval"}, train="train")
SCORED_FROM = ("data/trials/all", "data/trials/hard", "embeddings/eval")


def crc(content: bytes) -> str:
    return f"CRC-32 {zlib.crc32(content):08x} of {len(content)} bytes"


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.fixture
def places(tmp_path):
    """An experiment with weights, embeddings and scores, and its corpus."""
    exp, data = tmp_path / "exp:1", tmp_path / "data"
    write(data / "trials" / "all", "a b target\n")
    write(data / "trials" / "hard", "a c nontarget\n")
    write(exp / "models" / "model_1.pt", "weights")
    for name, content in (("1", "one"), ("2", "two")):
        write(exp / "embeddings" / "eval" / f"xvector_{name}.ark", content)
    write_scp(exp, {"a": "1.ark:2", "b": "2.ark:2", "c": "1.ark:9"})
    write(exp / "scores" / "all.score", "a b 0.5 target\n")
    return exp, data


def write_scp(exp: Path, places: dict[str, str], folder: str = "embeddings/eval") -> None:
    lines = (f"{name} {exp / folder}/xvector_{place}\n" for name, place in places.items())
    write(exp / "embeddings" / "eval" / "xvector.scp", "".join(lines))


def digests(names, exp: Path, data: Path) -> dict[str, str]:
    return upstream.digests(names, RunFolder(exp), DataFolder(data))


def stale(stage: str, exp: Path, data: Path) -> list[str] | None:
    return upstream.stale(stage, RunFolder(exp), DataFolder(data))


def refuse_stale(exp: Path, data: Path, info: CorpusInfo, *, scored: bool = True) -> None:
    upstream.refuse_stale(RunFolder(exp), DataFolder(data), info, scored=scored)


def record(exp: Path, data: Path, stage: str, names: tuple[str, ...], **options: object) -> None:
    version = STAGE_VERSIONS.get(stage.partition("_")[0], 1)
    DoneMarker(exp / ".done" / stage, digests(names, exp, data) | options, [], version=version).write()


def test_a_name_tells_where_a_file_lies(places):
    exp, data = places
    write(exp / "embeddings" / "mean", "mean")
    write(exp / "scores" / "hard.score.npz", "cache")
    write(exp / "scores" / "all.score.npz", "cache of the text")
    names = ["models/model_1.pt", "data/trials/all", "scores/all.score", "scores/hard.score", "embeddings/mean"]
    contents = [b"weights", b"a b target\n", b"a b 0.5 target\n", b"cache", b"mean"]
    assert digests(names, exp, data) == dict(zip(names, map(crc, contents), strict=True))
    absent = ["models/model_2.pt", "data/trials/other", "scores/other.score", "embeddings/other", "audio/eval"]
    assert digests(absent, exp, data) == dict.fromkeys(absent, "absent")


def test_a_packed_set_is_known_by_what_it_holds(places):
    exp, data = places
    before = None
    for name, amplitude in (("eval", 0.1), ("copy", 0.1), ("other", 0.2)):
        write_wav(data / name / "a.wav", amplitude * np.sin(np.arange(800.0)), 8000)
        DataDir(wav={"a": str(data / name / "a.wav")}, speaker={"a": "s"}, duration_s={"a": 0.1}).write(data / name)
        pack_data_dir(data / name, sample_rate=8000)
        (digest,) = digests([f"audio/{name}"], exp, data).values()
        assert digest != "absent"
        assert (digest == before) == (name == "copy")
        before = digest


def test_embeddings_are_known_by_names_places_and_content_of_their_arks(places, tmp_path):
    exp, data = places

    def digest() -> str:
        return digests(["embeddings/eval"], exp, data)["embeddings/eval"]

    before = digest()
    for changed in (
        {"a": "1.ark:2", "b": "2.ark:2", "c": "1.ark:8"},  # another place
        {"a": "1.ark:2", "b": "2.ark:2", "d": "1.ark:9"},  # another name
        {"a": "1.ark:2", "b": "1.ark:2", "c": "2.ark:9"},  # another ark
        {"a": "1.ark:2", "b": "2.ark:2"},  # one less
    ):
        write_scp(exp, changed)
        assert digest() != before
    moved = tmp_path / "moved"
    moved.mkdir()
    write_scp(exp, {"a": "1.ark:2", "b": "2.ark:2", "c": "1.ark:9"}, folder="../moved")
    for ark in (exp / "embeddings" / "eval").glob("*.ark"):
        ark.rename(moved / ark.name)
    assert digest() == before, "where an ark lies is of no matter"
    write(moved / "xvector_2.ark", "TWO")
    assert digest() != before


def test_stale_is_what_was_replaced_and_not_what_is_gone(places):
    exp, data = places
    assert stale("score", exp, data) is None
    record(exp, data, "score", ("models/model_1.pt", "data/trials/all", "scores/none.score"), top_n=300)
    assert stale("score", exp, data) == []
    write(data / "trials" / "all", "a b nontarget\n")
    assert stale("score", exp, data) == ["data/trials/all: changed"]
    (data / "trials" / "all").unlink()
    (exp / "models" / "model_1.pt").unlink()
    assert stale("score", exp, data) == []
    write(exp / "scores" / "none.score", "a b 0.5\n")
    assert stale("score", exp, data) == ["scores/none.score: was absent, now there"]


def test_each_stage_is_refused_with_the_number_that_makes_it_again(places):
    exp, data = places
    record(exp, data, "score", SCORED_FROM)
    record(exp, data, "extract_eval", ("models/model_1.pt",))
    record(exp, data, "extract_train", ("models/model_1.pt",))
    record(exp, data, "average", ("models/model_1.pt",))
    refuse_stale(exp, data, INFO)
    write(data / "trials" / "hard", "a c target\n")
    with pytest.raises(RecipeError, match=r"stage score must .*\(data/trials/hard: changed\); run\.sh --stage 5$"):
        refuse_stale(exp, data, INFO)
    refuse_stale(exp, data, INFO, scored=False)
    write(exp / "models" / "model_1.pt", "others")
    for stage in ("average", "extract_eval", "extract_train"):
        with pytest.raises(RecipeError, match=rf"stage {stage} must .*model_1\.pt: changed\); run\.sh --stage 4$"):
            refuse_stale(exp, data, INFO, scored=False)
        (exp / ".done" / stage).unlink()
    refuse_stale(exp, data, INFO, scored=False)


def test_a_list_that_was_not_scored_with_the_others_is_named(places):
    exp, data = places
    record(exp, data, "score", ("data/trials/all", "embeddings/eval"))
    with pytest.raises(RecipeError, match=r"\(hard: not scored with the others\); run\.sh --stage 5$"):
        refuse_stale(exp, data, INFO)


def test_scores_without_a_record_are_taken_only_from_where_there_are_no_embeddings(places):
    exp, data = places
    refuse_stale(exp, data, INFO, scored=False)
    with pytest.raises(RecipeError, match=r"scores: no record of what they were made from.*\(run\.sh --stage 5\)$"):
        refuse_stale(exp, data, INFO)
    (exp / "embeddings").rename(exp / "elsewhere")
    refuse_stale(exp, data, INFO)


@pytest.mark.parametrize(
    ("marker", "stage"),
    [
        ("score", "score"),
        ("extract_eval", "extract"),
        ("asnorm", "normalise"),
        ("snorm", "normalise"),
        ("calibrated", "calibrate"),
        ("evaluate", "evaluate"),
    ],
)
def test_a_result_of_an_earlier_version_of_the_stage_is_stale(places, monkeypatch, marker, stage):
    exp, data = places
    before = STAGE_VERSIONS[stage]
    DoneMarker(exp / ".done" / marker, {"data/trials/all": crc(b"a b target\n")}, [], version=before).write()
    assert stale(marker, exp, data) == []
    monkeypatch.setitem(STAGE_VERSIONS, stage, 7)
    assert stale(marker, exp, data) == [f"code: was {before}, now 7"]
