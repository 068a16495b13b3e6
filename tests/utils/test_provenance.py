"""What a result was made with."""

import json

from wespeaker_qm.utils.provenance import provenance


def test_provenance_is_plain_and_complete() -> None:
    record = json.loads(json.dumps(provenance()))
    assert record["commit"]
    assert record["command"]
    assert set(record["versions"]) == {"torch", "torchaudio", "numpy", "scipy", "soundfile", "kaldiio"}
    assert record["versions"]["torch"] != "not installed"
