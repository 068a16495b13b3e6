"""The store of speakers: what comes in, what goes, who is found, and that no change is ever done by half."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.enrolment.records import Voice
from wespeaker_qm.enrolment.store import STORE_VARIABLE, SpeakerStore, default_store, speaker_name
from wespeaker_qm.speaker.speaker import Speaker
from wespeaker_qm.utils.errors import RecipeError


def bytes_of(store):
    """All that lies on the disk of a store."""
    return b"".join(path.read_bytes() for path in store.path.parent.glob(f"{store.path.name}*"))


def rows_of(store, query):
    connection = sqlite3.connect(store.path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def change(store, script):
    """What somebody else does to the file."""
    connection = sqlite3.connect(store.path)
    connection.executescript(script)
    connection.close()


# Enrolment


def test_recordings_come_with_where_they_are_from(store, model, voices):
    speaker, added = store.enrol_voices("Anna", voices(1, 2), model)
    assert added == 2
    assert [each.name for each in store.speakers()] == ["Anna"]
    assert speaker == store.speakers()[0]
    assert [(each.file, each.duration_s) for each in speaker.utterances] == [("s1-0.wav", 1.5), ("s1-1.wav", 2.5)]
    assert speaker.duration_s == 4.0
    assert all(each.enrolled.endswith("+00:00") for each in speaker.utterances)


def test_enrolling_again_adds_and_what_is_there_is_passed_over(store, model, voices):
    store.enrol_voices("Anna", voices(1, 2), model)
    speaker, added = store.enrol_voices("Anna", voices(1, 3), model)
    assert added == 1
    assert len(speaker.utterances) == 3
    assert store.enrol_voices("Ben", [*voices(2), *voices(2)], model)[1] == 1


def test_replacing_leaves_the_new_alone(store, model, voices):
    store.enrol_voices("Anna", voices(1, 3), model)
    speaker, added = store.enrol_voices("Anna", voices(1, 1, first=7), model, replace=True)
    assert added == 1
    assert [each.file for each in speaker.utterances] == ["s1-7.wav"]
    for voice in voices(1, 3):
        assert voice.embedding.tobytes() not in bytes_of(store)


def slow_score(model, enrolled, test):
    """Float64, from the definition: the mean of unit vectors, and AS-norm of both sides."""
    mean, cohort = model.info.mean.astype(float), model.info.cohort.astype(float)

    def unit(x):
        return x / np.linalg.norm(x)

    def statistics(direction):
        cosines = np.sort([direction @ unit(row - mean) for row in cohort])[-model.info.scoring.top_n :]
        return cosines.mean(), cosines.std()

    voice = unit(np.mean([unit(row.astype(float) - mean) for row in enrolled], axis=0))
    probe = unit(test.astype(float) - mean)
    cosine = voice @ probe
    sides = [(cosine - centre) / deviation for centre, deviation in map(statistics, (voice, probe))]
    return sum(sides) / 2


def test_scores_are_those_of_the_definition(store, model, voices):
    for speaker in range(6):
        store.enrol_voices(f"s{speaker}", voices(speaker, 1 + speaker % 3), model)
    (probe,) = voices(3, first=9)
    candidates, num_speakers = store.nearest(probe, model, 6)
    assert num_speakers == 6
    assert candidates[0].name == "s3"
    for candidate in candidates:
        number = int(candidate.name[1:])
        enrolled = [voice.embedding for voice in voices(number, 1 + number % 3)]
        assert candidate.score == pytest.approx(slow_score(model, enrolled, probe.embedding), abs=2e-6)
    assert [each.score for each in candidates] == sorted((each.score for each in candidates), reverse=True)


def test_a_speaker_with_one_recording_scores_as_a_trial_does(store, model, voices):
    store.enrol_voices("Anna", voices(1), model)
    (probe,) = voices(1, first=5)
    ((candidate,), _) = store.nearest(probe, model)
    assert candidate.score == pytest.approx(model.score(voices(1)[0].embedding, probe.embedding), abs=2e-6)


def test_recordings_of_any_kind_are_enrolled_and_identified(store, model, tone):
    for name, pitch_hz in {"Anna": 300.0, "Ben": 900.0, "Cleo": 2000.0}.items():
        store.enrol(name, [tone(pitch_hz, 1), tone(pitch_hz, 2)], model, sample_rate=8000)
    found = store.identify(tone(900.0, 3), model, far=0.05, top=2, sample_rate=8000)
    assert found.candidates[0].name == "Ben"
    assert len(found.candidates) == 2
    assert found.decided_at.num_speakers == 3
    assert found.name == ("Ben" if found.candidates[0].score >= found.decided_at.threshold else None)
    assert "1,000 non-target" in found.rests_on


def test_the_threshold_decides(store, make_model, evidence_of, voices, monkeypatch):
    """With everything at a threshold between the two best scores, one is known and a stranger is not."""
    model = make_model(evidence=evidence_of(1000))
    for speaker in range(3):
        store.enrol_voices(f"s{speaker}", voices(speaker, 2), model)
    heard = {"known": voices(1, first=9)[0], "stranger": voices(77)[0]}

    class Listened:
        duration_s, speech_s = 2.0, 1.5

    class Heard:
        def __init__(self, name):
            self.name, self.embedding, self.listening, self.warnings = name, heard[name].embedding, Listened, ()

    monkeypatch.setattr(model, "hear", lambda name, sample_rate=None: Heard(name))
    known, stranger = store.identify("known", model, far=0.01), store.identify("stranger", model, far=0.01)
    assert known.name == "s1"
    assert stranger.name is None
    assert stranger.candidates[0].score < stranger.decided_at.threshold <= known.candidates[0].score


def test_a_recording_that_cannot_be_used_leaves_everything_as_it_was(store, model, tone, tmp_path):
    good, bad = tmp_path / "good.wav", tmp_path / "bad.wav"
    write_wav(good, tone(300.0), 8000)
    bad.write_bytes(b"RIFF, but no audio")
    with pytest.raises(RecipeError, match=r"bad\.wav"):
        store.enrol("Anna", [good, str(bad)], model)
    assert not store.path.exists()
    assert store.enrol("Anna", [good], model).speaker.utterances[0].file == "good.wav"


@pytest.mark.parametrize(
    ("change_voice", "message"),
    [
        (lambda voice: voice._replace(embedding=voice.embedding[:12]), r"shape \(12,\), expected \(24,\)"),
        (lambda voice: voice._replace(embedding=voice.embedding * np.float32("nan")), "finite values"),
        (lambda voice: voice._replace(duration_s=0.0), "0.0 s of audio"),
    ],
)
def test_what_is_no_recording_is_refused(store, model, voices, change_voice, message):
    good, bad = voices(1)[0], change_voice(voices(1, first=1)[0])
    with pytest.raises(RecipeError, match=message):
        store.enrol_voices("Anna", [good, bad], model)
    with pytest.raises(RecipeError, match=message):
        store.enrol_many([("Ben", [good]), ("Anna", [bad])], model)
    assert store.speakers() == []


def test_nothing_to_enrol_is_refused(store, model):
    for enrol in (store.enrol, store.enrol_voices):
        with pytest.raises(RecipeError, match="no recordings"):
            enrol("Anna", [], model)
    assert not store.path.exists()


def test_what_is_no_question_is_refused_before_any_work(store, model, voices, tone):
    store.enrol_voices("Anna", voices(1), model)
    with pytest.raises(RecipeError, match="top: found 0"):
        store.identify(tone(300.0), model, top=0, sample_rate=8000)
    with pytest.raises(RecipeError, match="far: found 1"):
        store.identify("no such file", model, far=1)


def test_many_are_enrolled_as_one_by_one(store, model, voices, monkeypatch):
    monkeypatch.setattr("wespeaker_qm.enrolment.records._BLOCK_SPEAKERS", 4)
    alone = SpeakerStore(store.path.with_name("alone.sqlite"))
    speakers = [(f"s{number % 7}", voices(number % 7, 1 + number % 3)) for number in range(11)]
    store.enrol_voices("s3", voices(3), model)
    alone.enrol_voices("s3", voices(3), model)
    store.enrol_many(speakers, model)
    for name, theirs in speakers:
        alone.enrol_voices(name, theirs, model)
    for mine, theirs in zip(store.gallery(model), alone.gallery(model), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(RecipeError, match="name: found"):
        store.enrol_many([("new", voices(50)), ("", voices(51))], model)
    assert "new" not in store.gallery(model).names


# Names


@pytest.mark.parametrize("text", ["Zoe\u0308 B.", " Zo\u00eb  B. ", "Zo\u00eb\u00a0B."])
def test_names_that_look_alike_are_one(store, model, voices, text):
    store.enrol_voices("Zo\u00eb B.", voices(1), model)
    store.enrol_voices(text, voices(1, 2), model)
    assert [each.name for each in store.speakers()] == ["Zo\u00eb B."]
    assert len(store.forget(text).utterances) == 2


@pytest.mark.parametrize(
    "text", ["", "  ", "a\nb", "a\0b", "a\u202eb", "a\u200bb", "a\u2028b", "x" * 201, "M\udcfcller", "\ufeffa"]
)
def test_what_is_no_name_is_refused(store, model, voices, text):
    with pytest.raises(RecipeError, match="name: found"):
        store.enrol_voices(text, voices(1), model)
    assert not store.path.exists()


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE speaker; --", "<b>", "../../etc", "名前", "می\u200cخواهم", "Anna" * 50]
)
def test_any_other_text_is_a_name(store, model, voices, text):
    store.enrol_voices(text, voices(1), model)
    assert [each.name for each in store.speakers()] == [text]
    assert speaker_name(text) == text


# Forgetting


def test_what_is_forgotten_is_gone_from_the_disk(store, model, voices):
    """Names and embeddings, whole or in part, after many changes; not those of others."""
    rng = np.random.default_rng(0)
    names = [f"speaker-{rng.bytes(6).hex()}" for _ in range(60)]
    for number, name in enumerate(names):
        store.enrol_voices(name, voices(number, 1 + number % 3), model)
    for number in rng.permutation(60)[:20].tolist():
        store.enrol_voices(names[number], voices(number, 1, first=20), model)
    gallery = store.gallery(model)
    gone = rng.permutation(60)[:25].tolist()
    everything = bytes_of(store)
    for number in gone:
        assert names[number].encode() in everything
        store.forget(names[number])
    everything = bytes_of(store)
    for number, name in enumerate(names):
        assert (name.encode() in everything) == (number not in gone)
        unit = gallery.unit[number].tobytes()
        blobs = [unit, *(voice.embedding.tobytes() for voice in [*voices(number, 3), *voices(number, 1, first=20)])]
        parts = [blob[start : start + 16] for blob in blobs for start in range(0, len(blob), 16)]
        assert any(part in everything for part in parts) == (number not in gone)
    assert len(store.speakers()) == 35
    assert rows_of(store, "PRAGMA foreign_key_check") == []


def test_a_reader_that_does_not_go_delays_the_erasure_and_is_told_of(store, model, voices, monkeypatch, caplog):
    monkeypatch.setattr("wespeaker_qm.enrolment.database.BUSY_S", 0.1)
    store.enrol_voices("Anna", voices(1), model)
    store.enrol_voices("Ben", voices(2), model)
    reader = sqlite3.connect(store.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM speaker").fetchone()
    store.forget("Anna")
    assert "still holds what was deleted" in caplog.text
    assert [each.name for each in store.speakers()] == ["Ben"]
    reader.execute("COMMIT")
    reader.close()
    store.forget("Ben")
    assert voices(1)[0].embedding.tobytes() not in bytes_of(store)


def test_forgetting_needs_no_model_and_names_who_is_like(store, model, voices):
    store.enrol_voices("Anna", voices(1), model)
    with pytest.raises(RecipeError, match=r"nobody of the name 'Ana' is enrolled.*nearest names are Anna"):
        store.forget("Ana")
    store.forget("Anna")
    assert store.speakers() == []
    with pytest.raises(RecipeError, match="nobody of the name"):
        store.forget("Anna")


# The model


def test_another_model_is_refused_with_what_to_do(store, model, make_model, voices, tone):
    store.enrol_voices("Anna", voices(1), model)
    other = make_model("b" * 64)
    for action in (
        lambda: store.enrol_voices("Ben", voices(2), other),
        lambda: store.enrol("Ben", [tone(300.0)], other, sample_rate=8000),
        lambda: store.identify(tone(300.0), other, sample_rate=8000),
    ):
        with pytest.raises(RecipeError, match=r"holds 1 speaker as the model aaaaaaaaaaaa .*--model.*--store"):
            action()
    assert [each.name for each in store.speakers()] == ["Anna"]
    store.forget("Anna")
    store.enrol_voices("Ben", voices(2), other)


def test_another_cohort_is_taken_up(store, model, make_model, voices):
    """A model that was exported again has other cohort speakers, and embeds as before."""
    for speaker in range(4):
        store.enrol_voices(f"s{speaker}", voices(speaker, 1 + speaker % 2), model)
    for changed in (make_model(cohort_seed=9), make_model(mean=0.1), make_model(cohort_seed=None)):
        other = SpeakerStore(store.path.with_name(f"{changed.scorer.fingerprint}.sqlite"))
        for speaker in range(4):
            other.enrol_voices(f"s{speaker}", voices(speaker, 1 + speaker % 2), changed)
        for mine, theirs in zip(store.gallery(changed)[1:], other.gallery(changed)[1:], strict=True):
            np.testing.assert_array_equal(mine, theirs)


# Work


def count_calls(monkeypatch, owner, name):
    calls = []
    original = getattr(owner, name)

    def counted(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_identification_costs_one_comparison_with_the_cohort_whatever_is_enrolled(store, model, voices, monkeypatch):
    from wespeaker_qm.enrolment import records

    for speaker in range(50):
        store.enrol_voices(f"s{speaker}", voices(speaker), model)
    loads = count_calls(monkeypatch, records, "load_gallery")
    cohort = count_calls(monkeypatch, type(model.scorer._cohort), "statistics")
    for take in range(3):
        (probe,) = voices(7, first=30 + take)
        store.nearest(probe, model)
    assert len(loads) == 1
    assert [len(directions.embeddings) for _, directions in cohort] == [1, 1, 1]


def test_what_another_program_changes_is_seen(store, model, voices):
    store.enrol_voices("Anna", voices(1), model)
    assert store.gallery(model).names == ["Anna"]
    elsewhere = SpeakerStore(store.path)
    elsewhere.enrol_voices("Ben", voices(2), model)
    assert store.gallery(model).names == ["Anna", "Ben"]
    kept = store.gallery(model)
    assert store.gallery(model) is kept
    elsewhere.enrol_voices("Anna", voices(1, 2), model)
    assert store.gallery(model).duration_s[0] == 4.0
    elsewhere.forget("Ben")
    assert store.gallery(model).names == ["Anna"]


def test_a_copy_that_is_put_back_is_seen(store, model, voices):
    """The same number of changes does not make the same content."""
    store.enrol_voices("Anna", voices(1), model)
    copy = store.path.read_bytes()
    store.enrol_voices("Ben", voices(2), model)
    assert store.gallery(model).names == ["Anna", "Ben"]
    store.path.write_bytes(copy)
    store.enrol_voices("Cleo", voices(3), model)
    assert store.gallery(model).names == ["Anna", "Cleo"]


def test_threads_of_one_program_enrol_and_identify_at_once(store, model, voices):
    store.enrol_voices("first", voices(99), model)
    faults = []

    def work(number):
        try:
            for take in range(5):
                store.enrol_voices(f"s{number}", voices(number, 1, first=take), model)
                gallery = store.gallery(model)
                assert len(gallery.names) == len(gallery.unit)
                assert store.nearest(voices(number, first=50)[0], model, 1).candidates[0].name == f"s{number}"
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert {each.name: len(each.utterances) for each in store.speakers()} == {
        "first": 1,
        **{f"s{number}": 5 for number in range(6)},
    }


# The file


def test_the_file_and_its_companions_are_for_its_owner_alone(store, model, voices):
    store.enrol_voices("Anna", voices(1), model)
    with store._database.reading():
        store.enrol_voices("Ben", voices(2), model)
        files = sorted(store.path.parent.glob("speakers.sqlite*"))
        assert [path.name for path in files] == ["speakers.sqlite", "speakers.sqlite-shm", "speakers.sqlite-wal"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert [path.name for path in store.path.parent.iterdir()] == ["speakers.sqlite"]


def test_its_folder_is_made_for_its_owner_alone(tmp_path, model, voices):
    store = SpeakerStore(tmp_path / "new" / "speakers.sqlite")
    store.enrol_voices("Anna", voices(1), model)
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def test_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.delenv(STORE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_store() == tmp_path / "wespeaker_qm" / "speakers.sqlite"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/anna")
    assert default_store() == Path("/home/anna/.local/share/wespeaker_qm/speakers.sqlite")
    monkeypatch.setenv(STORE_VARIABLE, "voices.sqlite")
    assert default_store() == SpeakerStore().path == Path("voices.sqlite")


def test_no_store_is_an_empty_one_but_for_questions(store, model, tone):
    assert store.speakers() == []
    for action in (lambda: store.forget("Anna"), lambda: store.identify(tone(300.0), model, sample_rate=8000)):
        with pytest.raises(RecipeError, match="no such store of speakers; enrol somebody first"):
            action()
    assert not store.path.exists()


def test_nobody_enrolled_is_told(store, model, voices, tone):
    store.enrol_voices("Anna", voices(1), model)
    store.forget("Anna")
    with pytest.raises(RecipeError, match="nobody is enrolled"):
        store.identify(tone(300.0), model, sample_rate=8000)


@pytest.mark.parametrize("kind", ["text", "database", "marked"])
def test_other_files_are_refused_and_left_alone(store, model, voices, kind):
    if kind == "text":
        store.path.write_text("no database " * 1000)
    else:
        mark = "PRAGMA application_id = 5;" if kind == "marked" else "CREATE TABLE speaker (id);"
        change(store, mark)
    before = store.path.read_bytes()
    for action in (lambda: store.enrol_voices("Anna", voices(1), model), store.speakers, lambda: store.forget("Anna")):
        with pytest.raises(RecipeError, match="name the file of a store"):
            action()
    assert store.path.read_bytes() == before
    assert [path.name for path in store.path.parent.iterdir()] == ["speakers.sqlite"]


def test_an_empty_file_becomes_a_store(store, model, voices):
    """What a maker leaves who is killed, before and after SQLite has written its first page."""
    for content in ("", "PRAGMA journal_mode = WAL;"):
        store.path.unlink(missing_ok=True)
        store.path.touch()
        change(store, content)
        assert store.speakers() == []
        with pytest.raises(RecipeError, match="no such store"):
            store.forget("Anna")
        store.enrol_voices("Anna", voices(1), model)
    assert len(store.speakers()) == 1


def test_a_store_of_a_later_version_is_refused(store, model, voices):
    store.enrol_voices("Anna", voices(1), model)
    change(store, "PRAGMA user_version = 2;")
    with pytest.raises(RecipeError, match=r"found version 2 of a store.*update"):
        store.enrol_voices("Ben", voices(2), model)


def test_a_damaged_store_is_told_with_a_remedy(store, model, voices):
    for number in range(40):
        store.enrol_voices(f"s{number}", voices(number), model)
    content = bytearray(store.path.read_bytes())
    content[8192 * 3 :] = b"\x55" * (len(content) - 8192 * 3)
    store.path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"put back a copy of it"):
        store.speakers()


@pytest.mark.parametrize("damage", ["UPDATE voice SET unit = x'00000000'", "DELETE FROM voice WHERE speaker = 1"])
def test_voices_that_somebody_else_changed_are_told(store, model, voices, damage):
    store.enrol_voices("Anna", voices(1), model)
    store.enrol_voices("Ben", voices(2), model)
    change(store, f"{damage};")
    with pytest.raises(RecipeError, match=r"a voice is missing or not 24 values .*put back a copy"):
        store.nearest(voices(1)[0], model)


@pytest.mark.parametrize("number", [1, 2])
def test_a_speaker_whose_recordings_somebody_else_removed_is_told(store, model, voices, number):
    """Found where the voices of a store of another cohort are worked out anew."""
    store.enrol_voices("Anna", voices(1), model)
    store.enrol_voices("Ben", voices(2), model)
    change(store, f"DELETE FROM utterance WHERE speaker = {number}; UPDATE store SET scoring = 'another';")
    with pytest.raises(RecipeError, match=rf"speaker {number} has no recording; put back a copy"):
        store.gallery(model)


def test_a_store_that_cannot_be_made_is_told(tmp_path, model, voices):
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match="name another place"):
        SpeakerStore(tmp_path / "file" / "speakers.sqlite").enrol_voices("Anna", voices(1), model)
    os.mkfifo(tmp_path / "pipe")
    for name, found in ((".", "is a folder"), ("pipe", "is a pipe, a socket or a device")):
        with pytest.raises(RecipeError, match=f"{found}, expected a file: move it away, or name another place"):
            SpeakerStore(tmp_path / name).enrol_voices("Anna", voices(1), model)


def test_a_writer_that_does_not_go_is_told_of(store, model, voices, monkeypatch):
    monkeypatch.setattr("wespeaker_qm.enrolment.database.BUSY_S", 0.1)
    store.enrol_voices("Anna", voices(1), model)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RecipeError, match="another program has kept it"):
        store.enrol_voices("Ben", voices(2), model)
    other.execute("ROLLBACK")
    other.close()
    store.enrol_voices("Ben", voices(2), model)


def test_an_error_within_an_enrolment_undoes_all_of_it(store, model, voices, monkeypatch):
    from wespeaker_qm.enrolment import records

    store.enrol_voices("Anna", voices(1), model)
    before = store.gallery(model)

    def fail(*args):
        raise MemoryError

    monkeypatch.setattr(records, "describe", fail)
    with pytest.raises(MemoryError):
        store.enrol_voices("Ben", voices(2), model)
    with pytest.raises(MemoryError):
        store.enrol_voices("Anna", voices(1, 3), model)
    assert [(each.name, len(each.utterances)) for each in store.speakers()] == [("Anna", 1)]
    assert store.gallery(model) is before


def test_the_public_name():
    import wespeaker_qm

    assert wespeaker_qm.SpeakerStore is SpeakerStore
    assert issubclass(Voice, tuple)
    assert Speaker is wespeaker_qm.Speaker


def test_processes_enrol_and_identify_at_once(store):
    """Each makes the store if need be, and goes on while the others write."""
    code = (
        "import sys\n"
        "from wespeaker_qm.bench.enrolment import random_embedding, random_model\n"
        "from wespeaker_qm.enrolment.records import Voice\n"
        "from wespeaker_qm.enrolment.store import SpeakerStore\n"
        "store, model, first = SpeakerStore(sys.argv[1]), random_model(400), int(sys.argv[2])\n"
        "for number in range(first, first + 20):\n"
        "    voice = Voice(f'{number}.wav', 1.0, random_embedding(number))\n"
        "    store.enrol_voices(f'own {number}', [voice], model)\n"
        "    assert store.nearest(voice, model).candidates[0].name == f'own {number}'\n"
        "    store.enrol_voices('common', [voice], model)\n"
        "    if number % 2:\n"
        "        store.forget(f'own {number}')\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, store.path, str(100 * worker)], stderr=subprocess.PIPE)
        for worker in range(3)
    ]
    errors = [worker.communicate()[1].decode() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], errors
    numbers = [100 * worker + number for worker in range(3) for number in range(20)]
    found = {each.name: {utterance.file for utterance in each.utterances} for each in store.speakers()}
    own = {f"own {number}": {f"{number}.wav"} for number in numbers if number % 2 == 0}
    assert found == {"common": {f"{number}.wav" for number in numbers}, **own}
    assert rows_of(store, "PRAGMA integrity_check") == [("ok",)]
