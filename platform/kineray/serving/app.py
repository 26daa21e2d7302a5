"""The Ray Serve application: an HTTP API, a decoder and a batching model.

    request -> Api -> Decoder (bytes -> uint8 clips) -> Model (batches of clips -> answers) -> Api

The model version is pinned by number and hash in the application's arguments, so a replica that is
restarted loads the same files. Only the Model knows how clips are cut. While one version replaces another,
replicas of both answer: every request to the decoder carries a ``ClipPlan``, and a Model that receives clips
of another version's plan returns its own plan instead of an answer.
"""

import asyncio
import io
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from kineray.errors import ConfigError, DecodeError
from kineray.serving.api import http_app
from kineray.serving.errors import RequestError
from kineray.serving.limits import Limits, overloaded

log = logging.getLogger(__name__)

_T = TypeVar("_T")

MAX_BATCH = 8  # requests in one batch

# A replaced replica gets this long to finish its requests; no request takes longer.
DRAIN_S = Limits(max_bytes=0).request_s + 10

_BATCH_WAIT_S = 0.01
_NO_LIMIT = 10_000  # requests at a replica: health checks must not wait for videos
# While a version is replaced, a clip reaches replicas of either version at random: try this many times.
_PLAN_ATTEMPTS = 16

_CPUS = 0.1  # reserved per replica: two cores must have room for every replica and its successor


class AppArgs(BaseModel):
    """The arguments of the application. They become part of Serve's configuration: no secrets here.

    ``service``: identifies the `kineray serve` that started it. ``origins``: the web origins whose pages may
    call it. ``plugins``: ``Plugin.to_json`` of each plug-in that the version needs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: str
    storage: str
    name: str
    version: int
    source: str
    sha256: str
    content: str
    run_name: str
    views: int
    crops: int
    top_k: int
    max_bytes: int
    gpus: float
    origins: list[str] = []
    plugins: list[dict[str, Any]] = []


@dataclass(frozen=True)
class ClipPlan:
    """How a video is cut into the clips that one model version takes."""

    preprocessing: str  # JSON
    views: int
    crops: int


@dataclass(frozen=True)
class Decoded:
    """The clips of one request: uint8 [views * crops, T, S, S, C], and their timestamps_s [views, T]."""

    plan: ClipPlan
    clips_vthwc: np.ndarray
    timestamps_s: np.ndarray
    decode_ms: float


class Decoder:
    """Decodes videos in child processes; knows no model, and imports no torch."""

    def __init__(self) -> None:
        import kineray.data  # noqa: F401 - imported here so that no request waits for it
        from kineray.cluster import cpus_of_this_node
        from kineray.data.clips.decoding import start_processes

        cores = cpus_of_this_node()  # more processes would only compete for the cores
        start_processes(cores)
        self._threads = ThreadPoolExecutor(cores, thread_name_prefix="decode")

    async def decode(self, video: bytes, plan: ClipPlan) -> Decoded:
        """Decode a video. Raises DecodeError, and ConfigError if the plan's model cannot take the video."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, video, plan)

    def _decode(self, video: bytes, plan: ClipPlan) -> Decoded:
        from kineray.data import Preprocessing
        from kineray.data.clips.decoding import eval_file

        started = time.perf_counter()
        preprocessing = Preprocessing.from_json(plan.preprocessing)
        clips, timestamps_s = eval_file(io.BytesIO(video), preprocessing, plan.views, plan.crops)
        return Decoded(plan, clips, timestamps_s, (time.perf_counter() - started) * 1e3)


class Model:
    """One version of a model; the clips of concurrent requests are classified in one batch."""

    def __init__(self, args: AppArgs) -> None:
        import torch

        from kineray.cluster import cpus_of_this_node
        from kineray.config import Plugin
        from kineray.evaluation import view_scores
        from kineray.tracking import ModelVersion, fetch
        from kineray.training import load_checkpoint

        for plugin in args.plugins:
            Plugin.from_json(plugin).execute()
        # Ray sets OMP_NUM_THREADS from num_cpus, here to 1.
        torch.set_num_threads(cpus_of_this_node())
        self._args = args
        self._device = "cuda" if args.gpus else "cpu"
        version = ModelVersion(
            name=args.name,
            version=args.version,
            source=args.source,
            sha256=args.sha256,
            content=args.content,
            run_name=args.run_name,
        )
        self._checkpoint = load_checkpoint(str(fetch(args.storage, version)), device=self._device)
        preprocessing = self._checkpoint.preprocessing
        self._plan = ClipPlan(preprocessing.to_json(), args.views, args.crops)
        # A model that cannot run must fail here, while the previous version still serves.
        side = preprocessing.eval_crop
        black = np.zeros((1, preprocessing.frames, side, side, preprocessing.channels), np.uint8)
        view_scores(self._checkpoint, black, self._device)

    def plan(self) -> ClipPlan:
        """How clips for this version must be cut."""
        return self._plan

    def describe(self) -> dict[str, Any]:
        """The version that this replica serves, as JSON."""
        return {
            "model": self._args.name,
            "version": self._args.version,
            "weights_sha256": self._args.sha256,
            "run": self._args.run_name,
            "views": self._args.views,
            "crops": self._args.crops,
            "labels": {head: list(names) for head, names in self._checkpoint.preprocessing.labels.items()},
        }

    async def infer(self, decoded: Decoded) -> dict[str, Any] | ClipPlan:
        """The answer, or this version's plan if the clips were cut for another version."""
        if decoded.plan != self._plan:
            return self._plan
        # Serve's decorator turns a method that takes a batch into one that takes a single request.
        infer_one = cast(Callable[[Decoded], Awaitable[dict[str, Any]]], self._infer_batch)
        return await infer_one(decoded)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=_BATCH_WAIT_S)
    async def _infer_batch(self, batch: list[Decoded]) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._infer, batch)

    def _infer(self, batch: list[Decoded]) -> list[dict[str, Any]]:
        from kineray.evaluation import answer, view_scores

        started = time.perf_counter()
        clips = np.concatenate([decoded.clips_vthwc for decoded in batch])
        scores_by_head = view_scores(self._checkpoint, clips, self._device)
        model_ms = (time.perf_counter() - started) * 1e3
        answers, start = [], 0
        for decoded in batch:
            stop = start + len(decoded.clips_vthwc)
            one = answer(
                self._checkpoint,
                {head: scores[start:stop] for head, scores in scores_by_head.items()},
                decoded.timestamps_s,
                top_k=self._args.top_k,
                model=self._args.name,
                version=self._args.version,
                timings_ms={"decode": decoded.decode_ms, "model": model_ms},
            )
            answers.append({**one, "batch_size": len(batch)})
            start = stop
        return answers


class Api:
    """HTTP: the path of a request through decoder and model."""

    def __init__(
        self, args: AppArgs, decoder: DeploymentHandle[Decoder], model: DeploymentHandle[Model]
    ) -> None:
        self._args = args
        self._decoder = decoder
        self._model = model
        self._plan: ClipPlan | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        limits = Limits(self._args.max_bytes)
        return http_app(self, limits, service_id=self._args.service, origins=self._args.origins)

    async def answer(self, video: bytes) -> dict[str, Any]:
        """The classes of a video."""
        return await _second_time_lucky(lambda: self._answer(video))

    async def describe(self) -> dict[str, Any]:
        """The version that answers."""
        return await _second_time_lucky(lambda: _result(self._model.describe.remote()))

    async def _answer(self, video: bytes) -> dict[str, Any]:
        for _ in range(_PLAN_ATTEMPTS):
            plan = self._plan or await _result(self._model.plan.remote())
            decoded = self._decoder.decode.remote(video, plan)
            # Passed on as a reference: the clips go directly from the decoder to the model.
            outcome = await _result(self._model.infer.remote(decoded), after=decoded)
            if not isinstance(outcome, ClipPlan):
                self._plan = plan
                return cast(dict[str, Any], outcome)
            self._plan = outcome
        raise RequestError(503, "changing", "the model is being replaced; try again", retry_after_s=1)


async def _result(response: Any, *, after: Any = None) -> Any:
    """What a replica returns; a caller that gives up also ends the call, and the one before it."""
    try:
        return await response
    except asyncio.CancelledError:
        for call in (response, after):
            if call is not None:
                call.cancel()
        raise


async def _second_time_lucky(call: Callable[[], Awaitable[_T]]) -> _T:
    """The result of ``call``, which is repeated if a replica dies. Raises RequestError."""
    try:
        return await _without_ray(call)
    except _ReplicaError as error:
        log.warning("a replica died (%s); trying again", error)
    try:
        return await _without_ray(call)
    except _ReplicaError as error:
        log.warning("a replica died again: %s", error)
        message = "a process of the service ended while it answered; try again"
        raise RequestError(503, "unavailable", message, retry_after_s=5) from None


class _ReplicaError(Exception):
    """A replica, or its host, is gone."""


async def _without_ray(call: Callable[[], Awaitable[_T]]) -> _T:
    """The result of ``call``, with Ray's errors as RequestError or _ReplicaError."""
    try:
        return await call()
    except (RayError, RayServeException) as error:
        # What a replica raised arrives as a RayTaskError; so does the death of a replica before it.
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, DecodeError):
            raise RequestError(400, cause.code, str(cause)) from None
        if isinstance(cause, ConfigError):  # a video without the optical flow that the model needs
            raise RequestError(400, "wrong_modality", str(cause)) from None
        if isinstance(cause, BackPressureError):
            raise overloaded() from None
        if isinstance(cause, RayError | RayServeException):
            raise _ReplicaError(f"{type(cause).__name__}: {cause}") from None
        raise


def build(args: AppArgs) -> serve.Application:
    """The application. Serve calls this with the ``args`` of its configuration."""
    cpu = {"num_cpus": _CPUS}
    decoder = _deployment(Decoder, max_ongoing=MAX_BATCH, resources=cpu)
    model = _deployment(Model, max_ongoing=_NO_LIMIT, resources={"num_gpus": args.gpus} if args.gpus else cpu)
    http = _deployment(serve.ingress()(Api), max_ongoing=_NO_LIMIT, resources=cpu)
    return http.bind(args, decoder.bind(), model.bind(args))


def _deployment(actor: type, *, max_ongoing: int, resources: dict[str, float]) -> serve.Deployment:
    return serve.deployment(
        actor,
        name=actor.__name__,
        max_ongoing_requests=max_ongoing,
        max_queued_requests=-1,  # the Api refuses what is too much
        max_surge_percent=100,  # start the successor before the old replica is stopped
        graceful_shutdown_timeout_s=DRAIN_S,
        ray_actor_options=resources,
    )
