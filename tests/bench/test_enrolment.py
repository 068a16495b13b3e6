"""The benchmark of identification: its table is whole, and it leaves nothing behind."""

from wespeaker_qm.bench.enrolment import identification_report


def test_the_report_has_a_row_for_all_that_is_done() -> None:
    report = identification_report(num_speakers=20, rounds=2)
    rows = [line.split("|")[1].strip() for line in report.splitlines() if line.count("|") == 5]
    assert rows[2:] == [
        "identify, in a program that has just started",
        "enrol a recording",
        "identify, after that",
        "identify, again",
        "forget a speaker",
    ]
    assert "20 speakers of one recording" in report
