"""Vectors in ark and scp: what others write is read alike."""

import contextlib
import os
import pickle
from pathlib import Path

import kaldiio
import numpy as np
import pytest

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import atomic_path
from wespeaker_qm.utils.vectors import VectorTable, write_vectors


@pytest.mark.parametrize("power", [1, 3], ids=["names of one length", "of several"])
def test_reads_what_kaldiio_writes_and_the_other_way_round(tmp_path, monkeypatch, power):
    monkeypatch.setattr("wespeaker_qm.utils.vectors._WINDOW_BYTES", 200)  # four vectors
    rng = np.random.default_rng(0)
    vectors = {f"u{number**power}": rng.standard_normal(7).astype(np.float32) for number in range(9)}
    kaldiio.save_ark(str(tmp_path / "a.ark"), vectors, scp=str(tmp_path / "a.scp"))
    names = [f"u{number**power}" for number in (3, 8, 3, 0, 1, 2, 6, 7)]
    table = VectorTable(tmp_path / "a.scp")
    assert table.names == list(vectors)
    np.testing.assert_array_equal(table.load(names), [vectors[name] for name in names])
    write_vectors(tmp_path, "b", list(vectors), np.stack(list(vectors.values())))
    written = kaldiio.load_scp(str(tmp_path / "b.scp"))
    assert list(written) == sorted(vectors)
    for name in vectors:
        np.testing.assert_array_equal(written[name], vectors[name])


def test_entries_of_other_kinds_are_read_too(tmp_path):
    """One ark of floats, one of doubles, one in text; the scp names them in turn."""
    rng = np.random.default_rng(0)
    lines, expected = [], []
    for kind, dtype, text in (("f", np.float32, False), ("d", np.float64, False), ("t", np.float32, True)):
        vectors = {f"{kind}{number}": rng.standard_normal(4).astype(dtype) for number in range(3)}
        kaldiio.save_ark(str(tmp_path / f"{kind}.ark"), vectors, scp=str(tmp_path / f"{kind}.scp"), text=text)
        lines += (tmp_path / f"{kind}.scp").read_text().splitlines()
        expected += list(vectors.values())
    (tmp_path / "all.scp").write_text("\n".join(lines) + "\n")
    names = [line.split()[0] for line in lines]
    for order in (slice(None), slice(None, None, -1)):
        found = VectorTable(tmp_path / "all.scp").load(names[order])
        np.testing.assert_allclose(found, expected[order], rtol=1e-5)


def test_refuses_other_lengths_and_a_cut_ark(tmp_path):
    kaldiio.save_ark(
        str(tmp_path / "x.ark"),
        {"a": np.ones(3, np.float32), "b": np.ones(4, np.float32)},
        scp=str(tmp_path / "x.scp"),
    )
    table = VectorTable(tmp_path / "x.scp")
    with pytest.raises(RecipeError, match="lengths 3 and 4, expected one vector length"):
        table.load(["a", "b"])
    (tmp_path / "x.ark").write_bytes((tmp_path / "x.ark").read_bytes()[:-6])
    with pytest.raises(RecipeError, match=r"x\.scp: cannot be read"):
        table.load(["b"])
    with pytest.raises(RecipeError, match=r"2 of the 3 utterances have no embedding.*\n  c\n  d"):
        table.load(["a", "c", "d"])
    kaldiio.save_ark(str(tmp_path / "m.ark"), {"a": np.ones((2, 2), np.float32)}, scp=str(tmp_path / "m.scp"))
    with pytest.raises(RecipeError, match=r"shape \(2, 2\), expected vectors"):
        VectorTable(tmp_path / "m.scp").load(["a"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("missing", [1, 4, 8, 12, 13, 20])
def test_a_vector_that_is_cut_is_refused_wherever_it_is_asked_for(tmp_path, missing, dtype):
    """Cut between two values, it is a shorter vector to kaldiio; and the window holds what was there before."""
    vectors = {name: np.full(3, number, dtype) for number, name in enumerate("abc")}
    kaldiio.save_ark(str(tmp_path / "x.ark"), vectors, scp=str(tmp_path / "x.scp"))
    np.testing.assert_array_equal(VectorTable(tmp_path / "x.scp").load(["c"]), [vectors["c"]])
    content = (tmp_path / "x.ark").read_bytes()
    (tmp_path / "x.ark").write_bytes(content[:-missing])
    for names in (["c"], ["a", "c"], ["c", "b", "a"]):
        with pytest.raises(RecipeError, match=r"x\.scp: cannot be read"):
            VectorTable(tmp_path / "x.scp").load(names)
    np.testing.assert_array_equal(VectorTable(tmp_path / "x.scp").load(["b", "a"]), [vectors["b"], vectors["a"]])


def test_vectors_of_floats_are_taken_from_the_bytes(tmp_path, monkeypatch):
    """Two arks, whose vectors fill a window to the last byte, or leave a few over."""
    names = [f"{ark}{number}" for ark in "xy" for number in range(7)]
    vectors = np.random.default_rng(0).standard_normal((14, 5)).astype(np.float32)
    for ark, part in (("x", slice(7)), ("y", slice(7, None))):
        write_vectors(tmp_path, ark, names[part], vectors[part])
    both = (tmp_path / "x.scp").read_text() + (tmp_path / "y.scp").read_text()
    (tmp_path / "both.scp").write_text(both)
    monkeypatch.setattr("kaldiio.matio.read_kaldi", None)
    entry = 3 + 10 + 20  # "x0 ", header, values
    for window in (2 * entry - 4, 2 * entry - 3, 2 * entry - 2, 3 * entry + 9):
        monkeypatch.setattr("wespeaker_qm.utils.vectors._WINDOW_BYTES", window)
        np.testing.assert_array_equal(VectorTable(tmp_path / "both.scp").load(names[::-1]), vectors[::-1])


def test_a_vector_may_be_longer_than_the_window(tmp_path, monkeypatch):
    monkeypatch.setattr("wespeaker_qm.utils.vectors._WINDOW_BYTES", 1)
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_vectors(tmp_path, "x", ["a", "b", "c"], vectors)
    np.testing.assert_array_equal(VectorTable(tmp_path / "x.scp").load(["c", "a", "b"]), vectors[[2, 0, 1]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_enough(tmp_path, bad):
    vectors = np.ones((3, 4), np.float32)
    vectors[1, 2] = bad
    write_vectors(tmp_path, "x", ["a", "b", "c"], vectors)
    with pytest.raises(RecipeError, match=r"1 of 3 embeddings hold values that are not finite.*\n  b$"):
        VectorTable(tmp_path / "x.scp").load(["a", "b", "c"])


@pytest.mark.parametrize("place", ["touch {ran} |", "|touch {ran}", "cat x.ark | tee {ran}|", "-"])
@pytest.mark.parametrize("position", [0, 1])
def test_no_command_of_an_scp_is_run(tmp_path, place, position):
    write_vectors(tmp_path, "x", ["a", "b"], np.ones((2, 3), np.float32))
    lines = (tmp_path / "x.scp").read_text().splitlines()
    lines[position] = f"{'ab'[position]} {place.format(ran=tmp_path / 'ran')}"
    (tmp_path / "y.scp").write_text("\n".join(lines) + "\n")
    with pytest.raises(RecipeError, match=rf"y\.scp: 1 of 2 .*\n  .*y\.scp:{position + 1}: is a command"):
        VectorTable(tmp_path / "y.scp").load(["a", "b"])
    assert not (tmp_path / "ran").exists()


class _Runs:
    """Unpickling it writes a file."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.ran,)


@pytest.mark.parametrize("kind", [b"PKL", b"NPY", b"AUDIO", b"RIFF", b"fLaC"])
def test_no_entry_of_an_ark_is_unpickled_or_taken_for_audio(tmp_path, kind):
    pickled = pickle.dumps(_Runs(tmp_path / "ran"))
    length = b"" if kind == b"PKL" else bytes([1, len(pickled)])
    (tmp_path / "x.ark").write_bytes(b"a " + kind + length + pickled)
    (tmp_path / "x.scp").write_text(f"a {tmp_path / 'x.ark'}:2\n")
    with pytest.raises(RecipeError, match=r"x\.ark:2: neither a binary entry of Kaldi's nor one in text"):
        VectorTable(tmp_path / "x.scp").load(["a"])
    assert not (tmp_path / "ran").exists()


def test_ranges_are_applied_as_kaldi_does(tmp_path):
    """The last index counts, too."""
    kaldiio.save_ark(str(tmp_path / "x.ark"), {"a": np.arange(6, dtype=np.float32)})
    (tmp_path / "x.scp").write_text(f"a {tmp_path / 'x.ark'}:2[1:3]\n")
    np.testing.assert_array_equal(VectorTable(tmp_path / "x.scp").load(["a"]), [[1, 2, 3]])


def test_a_length_beyond_the_end_of_the_ark_is_refused(tmp_path):
    kaldiio.save_ark(str(tmp_path / "x.ark"), {"a": np.ones(3, np.float32)}, scp=str(tmp_path / "x.scp"))
    damaged = bytearray((tmp_path / "x.ark").read_bytes())
    damaged[2 + 9] ^= 0x40  # the highest byte of the length: a thousand million values
    (tmp_path / "x.ark").write_bytes(damaged)
    with pytest.raises(RecipeError, match=r"byte 2 has \d{10} values by its header, the file ends first"):
        VectorTable(tmp_path / "x.scp").load(["a"])


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, make):
    make(tmp_path / "x.ark")
    (tmp_path / "x.scp").write_text(f"a {tmp_path / 'x.ark'}:2\nb {tmp_path / 'x.ark'}\n")
    for name in ("a", "b"):
        with pytest.raises(RecipeError, match=r"x\.ark: is a (pipe|folder)"):
            VectorTable(tmp_path / "x.scp").load([name])


@pytest.mark.parametrize("moment", ["while the ark is written", "before the scp"])
def test_an_interruption_never_leaves_an_scp_of_another_ark(tmp_path, monkeypatch, moment):
    """Names of the same lengths have the same offsets: an older scp would find vectors of other utterances."""
    old = np.zeros((2, 3), np.float32)
    write_vectors(tmp_path, "x", ["a", "b"], old)

    def stop(*arguments, **named):
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def stop_after(path, exchange=atomic_path):
        with exchange(path) as temporary:
            yield temporary
        stop()

    if moment == "while the ark is written":
        monkeypatch.setattr("kaldiio.save_ark", stop)
    else:
        monkeypatch.setattr("wespeaker_qm.utils.vectors.atomic_path", stop_after)
    with pytest.raises(KeyboardInterrupt):
        write_vectors(tmp_path, "x", ["c", "d"], old + 1)
    monkeypatch.undo()
    if moment == "while the ark is written":
        np.testing.assert_array_equal(VectorTable(tmp_path / "x.scp").load(["a", "b"]), old)
    else:
        assert not (tmp_path / "x.scp").exists()


def test_spaces_of_unicode_are_parts_of_names(tmp_path):
    names = ["a\u00a0b", "a\u202fc", "a\u2028d", "a\x85e"]
    vectors = np.arange(8, dtype=np.float32).reshape(4, 2)
    write_vectors(tmp_path, "xvector", names, vectors)
    np.testing.assert_array_equal(VectorTable(tmp_path / "xvector.scp").load(names), vectors)


def test_an_ark_is_found_from_any_folder_and_where_the_experiment_was_moved(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3) + 1
    write_vectors(Path("exp"), "x", ["a", "b"], vectors)
    assert (tmp_path / "exp/x.scp").read_text().startswith("a exp/x.ark:")  # as Kaldi's programs want it
    monkeypatch.chdir("elsewhere")
    np.testing.assert_array_equal(VectorTable("../exp/x.scp").load(["a", "b"]), vectors)
    (tmp_path / "exp").rename(tmp_path / "moved")
    np.testing.assert_array_equal(VectorTable("../moved/x.scp").load(["b"]), vectors[1:])
    ark = tmp_path / "moved/x.ark"
    ark.write_bytes(ark.read_bytes()[:-1] + b"\x00")
    with pytest.raises(RecipeError, match=r"moved/x\.ark"):
        VectorTable("../moved/x.scp").load(["b"])


@pytest.mark.parametrize(
    "offset", ["9223372036854775807", "9223372036854775000", "18446744073709551615", "9" * 30, "52"]
)
def test_a_place_behind_the_end_of_the_ark_is_refused(tmp_path, offset):
    """Also one from which a window would end beyond all numbers of 64 bits."""
    write_vectors(tmp_path, "x", ["a", "b"], np.ones((2, 3), np.float32))
    (tmp_path / "y.scp").write_text(f"a {tmp_path / 'x.ark'}:2\nb {tmp_path / 'x.ark'}:{offset}\n")
    for names in (["a", "b"], ["b"]):
        with pytest.raises(RecipeError, match=r"y\.scp: cannot be read \("):
            VectorTable(tmp_path / "y.scp").load(names)


def test_a_text_of_kaldi_is_one_vector_in_a_line(tmp_path):
    (tmp_path / "x.ark").write_text("a  [ 1 2.5 -3e-1 ]\nb [ 1 2\n 3 4 ]\nc [ 1 2\n")
    places = zip("abc", (2, 21, 36), strict=True)
    (tmp_path / "x.scp").write_text("".join(f"{name} {tmp_path / 'x.ark'}:{at}\n" for name, at in places))
    np.testing.assert_array_equal(VectorTable(tmp_path / "x.scp").load(["a"]), np.array([[1, 2.5, -0.3]], np.float32))
    for name in "bc":
        with pytest.raises(RecipeError, match=r"cut off, or a matrix, expected a vector `\[ 1 2 3 \]` in a line"):
            VectorTable(tmp_path / "x.scp").load([name])
