"""A local web page on a model: are two recordings of one speaker, and whose voice is this?

Recordings are embedded when they come; kept are the last few embeddings, in memory, and what is enrolled, in the store.
No audio is kept, and nothing leaves the machine: the page names no other place, and its content security policy lets it
reach none.

What a page on some other web site could do to a program on this machine is refused: requests for a host of another name
(DNS rebinding), and requests that another page has made (``Origin``).

::

    GET  /                  the page            GET  /recorder.js   takes samples from the microphone
    GET  /api/model         what is known of the model: curve, histogram, trials
    POST /api/clips?name=   a recording, as the body: its number, seconds of speech, warnings
    POST /api/verify        {"one", "other", "far"}: the fields of a Decision, and the rates of the list at the score
    POST /api/identify      {"clip", "far"}: the fields of an Identification
    GET  /api/speakers      who is enrolled; POST {"name", "clips"} enrols; POST /api/forget {"name"}
"""

import base64
import dataclasses
import hashlib
import io
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from importlib import resources
from statistics import NormalDist
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field

from wespeaker_qm.enrolment.answers import identification_json
from wespeaker_qm.enrolment.records import EnrolledSpeaker
from wespeaker_qm.enrolment.store import SpeakerStore
from wespeaker_qm.export.contents import Evidence
from wespeaker_qm.speaker.speaker import Heard, Speaker
from wespeaker_qm.utils.errors import RecipeError, shown

MAX_UPLOAD_BYTES = 32 << 20
"""Of a recording; five minutes of stereo at 48 kHz in 16 bits are 58 MB, of mono 29 MB."""
MAX_CLIPS = 64
"""Whose embeddings are kept."""

_TICKS = (0.001, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
_Rate = Annotated[float, Field(gt=0, lt=1)]


class _Verify(BaseModel):
    one: str
    other: str
    far: _Rate


class _Identify(BaseModel):
    clip: str
    far: _Rate


class _Enrol(BaseModel):
    name: str
    clips: Annotated[list[str], Field(min_length=1, max_length=MAX_CLIPS)]


class _Forget(BaseModel):
    name: str


class Clips:
    """The last recordings that came, by a number that cannot be guessed."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Heard] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, heard: Heard) -> str:
        """Keep a recording; its number."""
        number = secrets.token_urlsafe(12)
        with self._lock:
            self._kept[number] = heard
            while len(self._kept) > MAX_CLIPS:
                self._kept.popitem(last=False)
        return number

    def __getitem__(self, number: str) -> Heard:
        with self._lock:
            found = self._kept.get(number)
        if found is None:
            raise RecipeError("this recording is no longer there; record or choose it again")
        return found


def create_app(model: Speaker, store: SpeakerStore, hosts: Collection[str]) -> FastAPI:
    """The page's server.

    Args:
        model: what embeds and scores.
        store: of enrolled speakers.
        hosts: names and addresses under which the page may be asked for, without the port.
    """
    app = FastAPI(title="wespeaker_qm", docs_url=None, redoc_url=None, openapi_url=None)
    clips = Clips()
    page, policy = _page()

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = _refusal(request, hosts) or await call_next(request)
        response.headers.update(
            {
                "Content-Security-Policy": policy,
                "Cache-Control": "no-store",
                "Cross-Origin-Opener-Policy": "same-origin",
                "Cross-Origin-Resource-Policy": "same-origin",
                "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
                "Referrer-Policy": "no-referrer",
                "X-Content-Type-Options": "nosniff",
            }
        )
        return response

    @app.exception_handler(RecipeError)
    async def refuse(request: Request, error: RecipeError) -> Response:
        return _error(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def refuse_values(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"][1:]))
        return _error(400, f"{place}: found {shown(first.get('input'))}: {first['msg']}")

    @app.get("/")
    def read_page() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/recorder.js")
    def read_recorder() -> Response:
        return Response(_resource("recorder.js"), media_type="text/javascript")

    @app.get("/api/model")
    def describe() -> dict[str, Any]:
        evidence = model.info.evidence
        return {
            "path": str(model.info.path),
            "fingerprint": model.fingerprint[:12],
            "sample_rate": model.sample_rate,
            "evidence": None if evidence is None else dataclasses.asdict(evidence),
            "det": None if evidence is None else _det(evidence),
            "store": str(store.path),
        }

    @app.post("/api/clips")
    async def take(request: Request, name: str = "recording") -> Response:
        content = await _body(request)
        if content is None:
            return _error(413, f"more than {MAX_UPLOAD_BYTES >> 20} MiB; choose a shorter recording")
        source = io.BytesIO(content)
        source.name = name
        heard = await run_in_threadpool(model.hear, source)
        listening = heard.listening
        return JSONResponse(
            {
                "id": clips.add(heard),
                "name": name,
                "duration_s": listening.duration_s,
                "speech_s": listening.speech_s,
                "warnings": heard.warnings,
            }
        )

    @app.post("/api/verify")
    def verify(asked: _Verify) -> dict[str, Any]:
        decision = model.verify(clips[asked.one], clips[asked.other], far=asked.far)
        evidence, threshold = model.info.evidence, decision.threshold
        return {
            **dataclasses.asdict(decision),
            "at_score": None if evidence is None else _point_at(evidence, decision.score),
            "at_threshold": None if evidence is None or threshold is None else _point_at(evidence, threshold),
        }

    @app.post("/api/identify")
    def identify(asked: _Identify) -> dict[str, Any]:
        return identification_json(store.identify(clips[asked.clip], model, far=asked.far))

    @app.get("/api/speakers")
    def list_speakers() -> list[dict[str, Any]]:
        return [_speaker_json(each) for each in store.speakers()]

    @app.post("/api/speakers")
    def enrol(asked: _Enrol) -> dict[str, Any]:
        done = store.enrol(asked.name, [clips[clip] for clip in asked.clips], model)
        return {**_speaker_json(done.speaker), "added": done.added, "warnings": done.warnings}

    @app.post("/api/forget")
    def forget(asked: _Forget) -> dict[str, Any]:
        return _speaker_json(store.forget(asked.name))

    return app


def _refusal(request: Request, hosts: Collection[str]) -> Response | None:
    """The answer to a request that no page of ours has made; None to any other."""
    host = request.headers.get("host", "")
    if re.sub(r":[0-9]+$", "", host).lower().strip("[]") not in hosts:
        return _error(421, f"asked for {shown(host)}, expected {' or '.join(sorted(hosts))}")
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != host.lower():
        return _error(403, f"asked by a page of {shown(origin)}, expected one of this server")
    return None


async def _body(request: Request) -> bytes | None:
    """What was sent; None where that is too much, of which the rest is not read."""
    length = request.headers.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,18}", length) or int(length) > MAX_UPLOAD_BYTES:
        return None
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_UPLOAD_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)


def _det(evidence: Evidence) -> dict[str, Any]:
    """The curve of the model's list with probits as coordinates, and the rates at its ticks, in per cent."""
    curve = evidence.curve
    points = [(_probit(far, evidence), _probit(frr, evidence)) for far, frr in zip(curve.far, curve.frr, strict=True)]
    return {"points": points, "ticks": [(f"{100 * rate:g}", _probit(rate, None)) for rate in _TICKS]}


def _point_at(evidence: Evidence, score: float) -> dict[str, float]:
    """Of the model's list, the share of non-targets that score so high and of targets that score lower; and where."""
    curve = evidence.curve
    points = zip(curve.threshold, curve.far, curve.frr, strict=True)
    far, frr = next(((far, frr) for threshold, far, frr in reversed(list(points)) if threshold >= score), (0.0, 1.0))
    return {"far": far, "frr": frr, "x": _probit(far, evidence), "y": _probit(frr, evidence)}


def _probit(rate: float, evidence: Evidence | None) -> float:
    """The normal deviate of a rate; of none and all, that of half an error."""
    half = 1e-9 if evidence is None else 0.5 / max(evidence.num_targets, evidence.num_nontargets)
    return NormalDist().inv_cdf(min(max(rate, half), 1 - half))


def _speaker_json(speaker: EnrolledSpeaker) -> dict[str, Any]:
    return {"name": speaker.name, "recordings": len(speaker.utterances), "duration_s": speaker.duration_s}


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status_code=status)


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_bytes().decode()


def _page() -> tuple[str, str]:
    """The page, and the content security policy that lets its own script and style run, and nothing else."""
    page = _resource("page.html")
    hashes = {
        tag: base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        for tag, content in re.findall(r"<(script|style)>(.*?)</\1>", page, re.DOTALL)
    }
    policy = {
        "default-src": "'none'",
        "script-src": f"'self' 'sha256-{hashes['script']}'",
        "style-src": f"'sha256-{hashes['style']}'",
        "connect-src": "'self'",
        "media-src": "blob:",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return page, "; ".join(f"{name} {value}" for name, value in policy.items())
