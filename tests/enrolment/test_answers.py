"""What the programs print."""

import json

from wespeaker_qm.enrolment.answers import identification_lines, print_identification, print_speakers
from wespeaker_qm.enrolment.identification import Candidate, Identification, open_set_threshold


def found(evidence, *, name="Anna", num_speakers=3):
    return Identification(
        name=name,
        candidates=(Candidate("Anna", 3.25, 4.5), Candidate("Ben", -0.5, None)),
        decided_at=open_set_threshold(evidence, 0.01, num_speakers),
        rests_on="trials",
        warnings=("short",),
        seconds_of_speech=2.5,
    )


def test_lines_say_who_it_is_and_what_that_rests_on(evidence_of):
    known = identification_lines(found(evidence_of(1000)))
    assert known[0].startswith("Anna (threshold ")
    assert known[0].endswith(": 1 % of strangers are taken for one of 3)")
    assert known[1].startswith("  Anna: score 3.25")
    assert known[1].endswith("log-likelihood ratio +4.50")
    assert "log-likelihood" not in known[2]
    assert known[3:] == ["speech: 2.5 s", "the threshold rests on trials", "mind: short"]
    assert identification_lines(found(evidence_of(1000), name=None))[0].startswith("nobody who is enrolled (")
    assert identification_lines(found(None, name=None))[0] == "no decision"
    many = identification_lines(found(evidence_of(1000), num_speakers=100_000))[0]
    assert many.endswith("100 % of strangers are taken for one of 100,000)")


def test_json_is_one_line(evidence_of, capsys):
    print_identification(found(evidence_of(1000)), as_json=True)
    (line,) = capsys.readouterr().out.splitlines()
    content = json.loads(line)
    assert content["name"] == "Anna"
    assert content["candidates"][0] == {"name": "Anna", "score": 3.25, "llr": 4.5}
    assert content["decided_at"]["num_speakers"] == 3


def test_speakers_are_a_line_each(store, model, voices, capsys):
    store.enrol_voices("Anna", voices(1, 2), model)
    store.enrol_voices("Ben", voices(2), model)
    print_speakers(store, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Anna: 2 recordings of 4.0 s, 20")
    assert lines[1].startswith("Ben: 1 recording of 1.5 s, ")
    assert lines[2] == f"2 enrolled in {store.path}"
    print_speakers(store, as_json=True)
    anna, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert [each["file"] for each in anna["utterances"]] == ["s1-0.wav", "s1-1.wav"]
