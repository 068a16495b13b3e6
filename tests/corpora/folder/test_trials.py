"""Trials of one's own recordings: all pairs, or as many as are drawn."""

from collections import Counter

from wespeaker_qm.corpora.folder.trials import draw_trials
from wespeaker_qm.trials.lists import make_trials


def test_draw_trials_equals_all_pairs_when_they_are_few():
    speaker = {f"u{number:02d}": f"s{number * number % 5}" for number in range(17)}
    assert draw_trials(speaker, 1000, 1) == make_trials(speaker)


def test_draw_trials_samples_many():
    speaker = {f"u{number:03d}": f"s{number % 7}" for number in range(140)}
    every = set(make_trials(speaker))
    drawn = draw_trials(speaker, 200, 1)
    assert Counter(trial.is_target for trial in drawn) == {True: 200, False: 200}
    assert len(set(drawn)) == 400 and set(drawn) <= every and drawn == sorted(drawn)
    assert drawn == draw_trials(speaker, 200, 1) != draw_trials(speaker, 200, 2)
    # One big and one small speaker: few non-targets, and the draw must end.
    lopsided = {f"u{number:04d}": "big" if number else "small" for number in range(1500)}
    assert Counter(trial.is_target for trial in draw_trials(lopsided, 2000, 1)) == {True: 2000, False: 1499}
