"""The page's server: what it answers is what the model and the store say, and who must not ask is refused."""

import base64
import hashlib
import itertools
import re

import pytest

from wespeaker_qm.demo import app as module


@pytest.fixture
def clip(page, wav):
    """Function: bring a recording of a pitch; its number."""

    def bring(pitch_hz, seed=0):
        return page.post(f"/api/clips?name={pitch_hz}", wav(float(pitch_hz), seed).read_bytes())["id"]

    return bring


# What it says


def test_a_recording_is_listened_to(page, wav):
    heard = page.post("/api/clips?name=a%20b.wav", wav(300.0).read_bytes())
    assert heard["name"] == "a b.wav"
    assert heard["duration_s"] == 2.0
    assert 1.5 < heard["speech_s"] <= 2.0
    assert len(heard["id"]) >= 16


def test_a_decision_is_the_models(page, clip, wav, model):
    found = page.post("/api/verify", {"one": clip(300), "other": clip(300, 1), "far": 0.01})
    decision = model.verify(wav(300.0), wav(300.0, 1), far=0.01)
    assert (found["score"], found["same"], found["threshold"]) == (decision.score, decision.same, decision.threshold)


@pytest.mark.parametrize("score", [-9.0, -1.0, 0.0, 1.234, 4.0, 99.0])
def test_the_rates_at_a_score_are_the_lists(evidence_of, score):
    evidence = evidence_of(1000)
    curve = evidence.curve
    found = module._point_at(evidence, score)
    accepting = [point for point in zip(curve.threshold, curve.far, curve.frr, strict=True) if point[0] >= score]
    expected = accepting[-1][1:] if accepting else (0.0, 1.0)
    assert (found["far"], found["frr"]) == expected


def test_the_curve_is_drawn_in_probits(page):
    _, _, content = page.ask("GET", "/api/model")
    points = content["det"]["points"]
    assert all(far <= later for (far, _), (later, _) in itertools.pairwise(points))
    assert dict((label, place) for label, place in content["det"]["ticks"])["5"] == pytest.approx(-1.6449, abs=1e-4)


def test_a_model_without_a_list_decides_nothing(start, make_model, wav):
    page = start(make_model())
    one = page.post("/api/clips", wav(300.0).read_bytes())["id"]
    found = page.post("/api/verify", {"one": one, "other": one, "far": 0.01})
    assert (found["same"], found["at_score"], found["at_threshold"]) == (None, None, None)
    assert page.ask("GET", "/api/model")[2]["det"] is None


def test_from_enrolment_to_forgetting(page, clip):
    assert page.ask("GET", "/api/speakers")[2] == []
    name = "<b>Anna</b>"
    done = page.post("/api/speakers", {"name": name, "clips": [clip(300), clip(300, 1)]})
    assert (done["name"], done["added"], done["recordings"]) == (name, 2, 2)
    page.post("/api/speakers", {"name": "Ben", "clips": [clip(900)]})
    found = page.post("/api/identify", {"clip": clip(900, 1), "far": 0.05})
    assert found["candidates"][0]["name"] == "Ben"
    assert found["decided_at"]["num_speakers"] == 2
    assert page.post("/api/forget", {"name": "Ben"})["recordings"] == 1
    assert [each["name"] for each in page.ask("GET", "/api/speakers")[2]] == [name]
    assert [each.name for each in page.store.speakers()] == [name]


def test_only_the_last_recordings_are_kept(page, clip, monkeypatch):
    monkeypatch.setattr(module, "MAX_CLIPS", 2)
    first, second, third = clip(300), clip(300, 1), clip(300, 2)
    assert page.post("/api/verify", {"one": second, "other": third, "far": 0.01})["same"] is not None
    status, _, content = page.ask("POST", "/api/verify", {"one": first, "other": third, "far": 0.01})
    assert (status, content["error"]) == (400, "this recording is no longer there; record or choose it again")


# What is refused


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/api/clips?name=a.wav", b"no audio", "a.wav"),
        ("/api/clips?name=a.wav", b"", "a.wav"),
        ("/api/verify", {"one": "x", "other": "y", "far": 0.01}, "no longer there"),
        ("/api/verify", {"one": "x", "other": "y", "far": 2}, "far: found 2"),
        ("/api/verify", {"one": "x"}, "other: found"),
        ("/api/verify", [1], "found"),
        ("/api/verify", b"{", "found"),
        ("/api/identify", {"clip": "x", "far": 0.1}, "no longer there"),
        ("/api/speakers", {"name": "Anna", "clips": []}, "clips: found"),
        ("/api/forget", {"name": "Anna"}, "no such store"),
    ],
)
def test_what_cannot_be_answered_is_told(page, path, body, message):
    status, _, content = page.ask("POST", path, body)
    assert status == 400
    assert message in content["error"]
    assert not page.store.path.exists()


def test_a_name_that_is_none_is_told(page, clip):
    status, _, content = page.ask("POST", "/api/speakers", {"name": " ", "clips": [clip(300)]})
    assert (status, "name: found" in content["error"]) == (400, True)


def test_too_much_is_refused_and_not_read(page, monkeypatch, wav):
    monkeypatch.setattr(module, "MAX_UPLOAD_BYTES", 1000)
    status, _, content = page.ask("POST", "/api/clips", b"", **{"Content-Length": "1001"})
    assert (status, "choose a shorter recording" in content["error"]) == (413, True)
    chunks = b"400\r\n" + b"x" * 1024 + b"\r\n0\r\n\r\n"
    status, _, content = page.ask("POST", "/api/clips", chunks, **{"Transfer-Encoding": "chunked"})
    assert (status, "choose a shorter recording" in content["error"]) == (413, True)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost.evil"])
def test_another_host_is_refused(page, host):
    """A site whose name was made to lead to this machine (DNS rebinding)."""
    status, _, content = page.ask("GET", "/api/speakers", Host=host)
    assert (status, "expected" in content["error"]) == (421, True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_this_machine_has_several_names(page, host):
    for name in (host, f"{host}:{page.port}"):
        assert page.ask("GET", "/api/speakers", Host=name)[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost"])
def test_pages_of_others_can_ask_for_nothing(page, clip, origin):
    page.post("/api/speakers", {"name": "Anna", "clips": [clip(300)]})
    for body in ({"name": "Anna"}, b'{"name": "Anna"}'):
        status, _, content = page.ask("POST", "/api/forget", body, Origin=origin)
        assert (status, "asked by a page" in content["error"]) == (403, True)
    assert len(page.store.speakers()) == 1
    assert page.ask("POST", "/api/forget", {"name": "Anna"}, Origin=page.url)[0] == 200


# The page itself


@pytest.mark.parametrize("path", ["/", "/recorder.js", "/api/model", "/api/nothing"])
def test_every_answer_has_the_policy(page, path):
    _, headers, _ = page.ask("GET", path)
    headers = {name.lower(): value for name, value in headers.items()}
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


def test_it_is_one_page_that_names_no_other_place(page):
    _, headers, text = page.ask("GET", "/")
    places = set(re.findall(r"https?://[^\s\"'`]+", text))
    assert places == {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in text
    assert " style=" not in text
    assert not re.search(r"\son\w+=", text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(value for name, value in headers.items() if name.lower() == "content-security-policy")
    assert f"'sha256-{digest}'" in policy
