"""Every text that a user may have written or edited elsewhere is read in one way, and refused in one way."""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from wespeaker_qm.config import load_config
from wespeaker_qm.corpora.folder.settings import FolderSettings
from wespeaker_qm.corpora.folder.speaker_split import parse_eval_speakers
from wespeaker_qm.corpora.settings import read_settings
from wespeaker_qm.corpora.voxceleb.files import _vox2_test_speakers
from wespeaker_qm.corpora.voxceleb.trials import read_published_trials
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.packing.format import read_shard_list
from wespeaker_qm.report.training_history import read_training_history
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.utils.checksums import read_checked_json
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.tables import read_tsv
from wespeaker_qm.utils.vectors import VectorTable


class Kind(NamedTuple):
    """A kind of text file: a good one, and what reads it."""

    name: str
    content: str
    read: Callable[[Path], Any]
    joins: str = " "
    """What stands between the fields of a line."""


def _data_dir(path: Path) -> DataDir:
    return DataDir.read(path.parent)


def _table(path: Path) -> list[Any]:
    table = read_trial_table(path)
    return [table.utterances, table.enrolment.tolist(), table.test.tolist(), table.is_target.tolist()]


def _scores(path: Path) -> list[Any]:
    scored = read_scores(path)
    return [scored.trials.utterances, scored.scores, scored.measures]


def _unlabelled(path: Path) -> Any:
    (path.parent / "trials").write_text("a-1 a-2 target\na-1 b-1 nontarget\n")
    return read_scores(path, read_trial_table(path.parent / "trials")).scores.tolist()


KINDS = [
    Kind("wav.scp", "a-1 x/1.wav\na-2 x/2 3.wav\nb-1 x/4.wav\n", _data_dir),
    Kind("utt2spk", "a-1 a\na-2 a\nb-1 b\n", _data_dir),
    Kind("utt2dur", "a-1 1\na-2 2.5\nb-1 1e1\n", _data_dir),
    Kind("spk2utt", "a a-1 a-2\nb b-1\n", _data_dir),
    Kind("spk2gender", "a f\nb m\n", _data_dir),
    Kind("utt2session", "a-1 x\na-2 x\nb-1 y\n", _data_dir),
    Kind("segments", "a-1 a-1 0 1\na-2 a-1 1 2\nb-1 b-1 0 -1\n", _data_dir),
    Kind("trials-kaldi", "a-1 a-2 target\na-1 b-1 nontarget\n", _table),
    Kind("trials-voxceleb", "1 a-1 a-2\n0 a-1 b-1\n", _table),
    Kind("veri_test.txt", "1 a-1 a-2\n0 a-1 b-1\n", read_published_trials),
    Kind("x.score", "a-1 a-2 0.5 target\na-1 b-1 -1e-3 nontarget\n", _scores),
    Kind("asnorm.score", "a-1 a-2 0.5 target 1 2 3 4\na-1 b-1 -1e-3 nontarget 5 6 7 8\n", _scores),
    Kind("kaldi.score", "a-1 a-2 0.5\na-1 b-1 -1e-3\n", _unlabelled),
    Kind("xvector.scp", "a-1 x.ark:4\na-2 x.ark:99\n", lambda path: VectorTable(path).names),
    Kind("shard.list", "x/shards_000000.tar\nx/shards_000001.tar\n", read_shard_list),
    Kind("speakers.tsv", "spk\tsplit\nanna\ttrain\nben\t\n", lambda path: read_tsv(path, ("spk", "split")), "\t"),
    Kind("eval_speakers", "anna\nben\nJosé\n", lambda path: parse_eval_speakers(str(path))),
    Kind("vox2_meta.csv", "VoxCeleb2 ID, Set\nid00012, dev\nid00017, test\n", _vox2_test_speakers, ", "),
    Kind("corpus.yaml", "name: x\nheadline: all\ntrials: {all: eval}\n", CorpusInfo.load),
    Kind(
        "corpus.yaml", "kind: folder\nnum_rooms: 7\nseed: 3\n", lambda path: read_settings(FolderSettings, path.parent)
    ),
    Kind("overlay.yaml", "num_epochs: 90\n", lambda path: load_config([Path("conf/resnet34.yaml"), path]).to_yaml()),
    Kind("metrics.json", '{"eer":\n 0.1,\n "run": "x"}\n', lambda path: read_checked_json(path, "evaluate again")),
    Kind(
        "train_log.jsonl",
        '{"type": "step", "epoch": 1, "step": 1}\n'
        '{"type": "epoch", "epoch": 1, "step": 2, "samples": 3, "minutes": 0.5}\n',
        lambda path: read_training_history(path).num_samples,
    ),
]  # fmt: skip


@pytest.fixture(params=KINDS, ids=[f"{number}-{kind.name}" for number, kind in enumerate(KINDS)])
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
def write(kind: Kind, tmp_path: Path) -> Callable[[bytes], Path]:
    """Function: write the file, in a data directory that is right."""
    for table in KINDS[:2]:
        (tmp_path / table.name).write_text(table.content)

    def write(content: bytes) -> Path:
        (tmp_path / kind.name).write_bytes(content)
        return tmp_path / kind.name

    return write


ELSEWHERE: dict[str, Callable[[str], bytes]] = {
    "byte order mark": lambda text: text.encode("utf-8-sig"),
    "Windows": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    "blank lines": lambda text: text.replace("\n", "\n\n").encode(),
    "blank line first": lambda text: f"\n{text}".encode(),
    "lines of spaces": lambda text: text.replace("\n", "\n  \n").encode(),
    "no line end": lambda text: text.removesuffix("\n").encode(),
}


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_who_wrote_it_does_not_matter(kind: Kind, write: Callable[[bytes], Path], elsewhere: str) -> None:
    expected = kind.read(write(kind.content.encode()))
    np.testing.assert_equal(kind.read(write(ELSEWHERE[elsewhere](kind.content))), expected)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_told_with_file_and_remedy(
    kind: Kind, write: Callable[[bytes], Path], encoding: str
) -> None:
    path = write(re.sub("[a-z]", "ü", kind.content, count=1).encode(encoding))
    with pytest.raises(RecipeError, match=rf"{kind.name}:1: not UTF-8 text: found") as caught:
        kind.read(path)
    assert "UTF-8" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_field_of_a_million_characters_is_shortened(kind: Kind, write: Callable[[bytes], Path]) -> None:
    long = "x" * 1_000_000
    if kind.name.endswith(".yaml"):
        content = f"{long}: {long}\n"
    elif kind.name.endswith((".json", ".jsonl")):
        content = f'{{"{long}'
    else:
        content = kind.content + f"{long}{kind.joins}{long}{kind.joins}{long}{kind.joins * 7}{long}\n"
    path = write(content.encode())
    try:
        kind.read(path)
    except RecipeError as error:
        assert str(path.parent) in str(error)
        assert len(str(error)) < 2000
    else:
        assert kind.name in {"spk2utt", "shard.list", "eval_speakers", "vox2_meta.csv", "xvector.scp"}, (
            "any line is one there"
        )


def test_no_other_module_decodes_text() -> None:
    """Those that do read what is no text of a user: this machine's own files, a program's output, checksums."""
    root = Path("wespeaker_qm")
    others = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if re.search(r"\.read_text\(|\bopen\(encoding|DictReader", path.read_text(encoding="utf-8"))
    }
    assert others == {
        "utils/files.py", "utils/lock.py", "bench/machine.py", "bench/memory.py",
        "corpora/debian/apt.py", "utils/doctor.py",
    }  # fmt: skip


def test_no_message_leaves_one_and_several_to_its_reader(repository):
    """Such as 1 file(s): counted() says how many in words that fit."""
    found = [
        f"{path}: {line.strip()}"
        for path in sorted((repository / "wespeaker_qm").rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"[a-zA-Z]{3,}\((s|es|ies)\)", line) and not re.search(r"\bexp\(s\)", line)
    ]
    assert not found, "\n".join(found)


_SEVERAL = re.compile(
    r" (?:[a-z'-]+ ){0,2}(?:clip|embedding|epoch|error|file|finding|folder|input|kill|line|list|note|package|pair|"
    r"record|recording|row|run|score|shard|speaker|step|target|tar|trial|update|utterance|classe|processe|entrie)s(?![a-z-])"
)
_OF_ALL = re.compile(r"(?:\b(?:[Oo]f|all|among|none)(?: the| its)? )$")


def _is_number(value: Any) -> bool:
    """A count, as far as can be seen: a length, or what is called a number or written as one; no constant."""
    written = "" if value.format_spec is None else ast.unparse(value.format_spec)
    expression = ast.unparse(value.value)
    if re.match(r"[A-Z]|counted\(|\w+\(", expression.replace("len(", "")) or re.search(r"\.\d", written):
        return False
    return bool(re.search(r"[,d]'$", written) or re.search(r"\blen\(|\b(num_|count|total)", expression))


def _plurals_at_one(code: str) -> list[int]:
    """Lines where a text has a number that may be 1, and the word for several behind it: ``f"{len(trials)} trials"``,
    ``"scored %d trials"``. Of how many ("1 of 3 trials") is no such number.
    """
    lines = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.JoinedStr):
            before = ""
            for value, text in zip(node.values, node.values[1:], strict=False):
                if isinstance(value, ast.Constant):
                    before = value.value
                    continue
                is_several = isinstance(text, ast.Constant) and _SEVERAL.match(text.value)
                if is_several and _is_number(value) and not _OF_ALL.search(before):
                    lines.append(node.lineno)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            numbers = re.finditer(r"%d(?= )", node.value)
            lines += [
                node.lineno
                for found in numbers
                if _SEVERAL.match(node.value, found.end()) and not _OF_ALL.search(node.value[: found.start()])
            ]
    return lines


@pytest.mark.parametrize(
    ("code", "is_found"),
    [
        ('f"{len(trials)} trials"', True),
        ('f"scored {num_trials:,} target trials of {name}"', True),
        ('log("extracted %d embeddings into %s")', True),
        ('log("%d other files are left")', True),
        ("f\"{counted(len(trials), 'trial', 'trials')} of {name}\"", False),
        ('f"{len(bad)} of {len(trials)} trials"', False),
        ('f"{name} scores {num_trials} of them, {LEAST} speakers or more"', False),
        ('f"a rate of {count:.1f} speakers"', False),
        ('log("%d of %d files")', False),
    ],
)
def test_a_plural_that_is_wrong_of_one_is_found(code: str, is_found: bool) -> None:
    assert bool(_plurals_at_one(code)) == is_found


def test_no_message_says_1_trials(repository):
    """counted() says how many in words that fit one or several."""
    found = [
        f"{path.relative_to(repository)}:{line}"
        for path in sorted((repository / "wespeaker_qm").rglob("*.py"))
        for line in _plurals_at_one(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)
