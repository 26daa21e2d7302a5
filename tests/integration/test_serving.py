"""A real `kineray serve` in its own process: its answers, its errors, and promotions under load."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import av
import httpx
import numpy as np
import pytest
from click.testing import CliRunner

from kineray.cli.app import cli
from kineray.config import Experiment, fingerprint
from kineray.data import load_manifest, synthesize
from kineray.errors import CheckpointError, KinerayError, ServingError, TrackingError
from kineray.evaluation import predict
from kineray.serving import find_service, promote, rollback, serve
from kineray.tracking import fetch, get_version, register, set_champion, start_run
from kineray.training import load_checkpoint
from small_checkpoint import CLASSES, save_small_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("one_thread")]

MODEL = "video-classifier"
MAX_BYTES = 2**20
VIEWS, CROPS = 2, 3


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return load_manifest(synthesize(tmp_path_factory.mktemp("videos"), train=0, val=8, size=48))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The folder in which this process and the service keep fetched checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("KINERAY_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def store(tmp_path_factory, videos, cache):
    """A storage folder with champion `a`, previous `b`, and a run `wide` that cuts clips differently."""
    folder = str(tmp_path_factory.mktemp("runs"))
    trained(folder, videos, "a", seed=1)
    trained(folder, videos, "b", seed=2)
    trained(folder, videos, "wide", seed=3, frames=16, eval_crop=40)
    assert not promote("b", storage=folder).served
    assert not promote("a", storage=folder).served
    return folder


def trained(folder, manifest, name, **checkpoint):
    run = start_run(
        folder,
        name=name,
        experiment=Experiment(),
        fingerprint=fingerprint(Experiment()),
        manifest=manifest,
        command=[],
    )
    uri = save_small_checkpoint(f"{folder}/{name}/checkpoints", **checkpoint)
    run.set_tags({"checkpoint.best": uri})
    run.finish()
    return uri


OTHER_APPLICATION = """
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Other:
    async def __call__(self, request):
        return "still here"

app = Other.bind()
"""


@pytest.fixture(scope="module")
def start(store, unused_port, tmp_path_factory):
    """`kineray serve --background` as a user starts it, and what others do meanwhile; ended by --stop."""
    modules = tmp_path_factory.mktemp("modules")
    (modules / "other_application.py").write_text(OTHER_APPLICATION)
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    environment = os.environ | nowhere | {"PYTHONPATH": os.pathsep.join([str(modules), *sys.path])}

    def kineray(*words):
        return subprocess.Popen(
            [sys.executable, "-m", "kineray", *words, "--storage", store],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    starting = kineray(
        *("serve", "--background", "--port", str(unused_port), "--top-k", "4"),
        *("--max-megabytes", str(MAX_BYTES // 2**20), "--views", str(VIEWS), "--crops", str(CROPS)),
        *("--cors", "https://example.org"),
    )
    before = get_version(store, MODEL).version
    try:
        notes = [starting.stderr.readline()]
        while notes[-1] and not notes[-1].startswith("waiting for version"):
            notes.append(starting.stderr.readline())
        second = kineray("serve", "--background")
        promoted = promote("b", storage=store)
        notes += starting.stderr.readlines()
        assert starting.wait(60) == 0, notes
        refusal = second.communicate(timeout=60)[1]
        yield SimpleNamespace(
            before=before, promoted=promoted, notes=notes, second=second.returncode, refusal=refusal
        )
    finally:
        assert kineray("serve", "--stop").wait(120) == 0
        for process in (starting, second):
            process.kill()
            process.wait()
    assert find_service(store) is None
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{unused_port}/v2/health/live")


@pytest.fixture(scope="module")
def service(start, store):
    return find_service(store)


@pytest.fixture(scope="module")
def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_promotion_while_a_service_starts_reaches_it(start, service, store):
    assert start.promoted.served
    assert start.promoted.version != start.before
    assert service.version() == start.promoted.version == get_version(store, MODEL).version
    assert "Traceback" not in (Path(store) / "serve.log").read_text()


def test_two_services_that_start_at_once(start, service):
    assert start.second == 2
    assert "already serving it" in start.refusal
    assert str(service.pid) in start.refusal


@pytest.fixture
def client(service):
    with httpx.Client(base_url=service.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def offline(store, videos):
    """(version, sample) -> head -> label -> score, by `predict` on the registered checkpoint."""
    answers = {}

    def scores(number, sample):
        if (number, sample.id) not in answers:
            checkpoint = load_checkpoint(str(fetch(store, get_version(store, MODEL, number))))
            answers[number, sample.id] = predict(checkpoint, sample.uri, views=VIEWS, crops=CROPS)
        return answers[number, sample.id]

    return scores


def assert_same_answer(served, offline):
    for head, entries in offline["predictions"].items():
        expected = {entry["label"]: entry["score"] for entry in entries}
        got = {entry["label"]: entry["score"] for entry in served["predictions"][head]}
        assert got == pytest.approx(expected, abs=1e-5)
    assert served["timestamps_s"] == offline["timestamps_s"]
    assert served["weights_sha256"] == offline["weights_sha256"]


def assert_error(response, status, code):
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert response.json()["error"]["message"]


def test_a_raw_body_and_a_form_get_the_offline_answer(client, videos, offline, store):
    champion = get_version(store, MODEL)
    for sample in videos:
        video = Path(sample.uri).read_bytes()
        raw = client.post("/v1/predict", content=video)
        form = client.post("/v1/predict", files={"file": ("clip.mp4", video, "video/mp4")})
        for response in (raw, form):
            assert response.status_code == 200
            answer = response.json()
            assert_same_answer(answer, offline(champion.version, sample))
            assert (answer["model"], answer["version"]) == (MODEL, champion.version)
            assert answer["weights_sha256"] == champion.sha256
            assert set(answer["timings_ms"]) == {"receive", "decode", "model", "total"}
            best = [entry["score"] for entry in answer["predictions"]["action"]]
            assert best == sorted(best, reverse=True)
    assert len({json.dumps(offline(champion.version, sample)["predictions"]) for sample in videos}) == 8


def test_the_command_line_gives_the_answer_of_the_endpoint(store, videos, client):
    """`kineray predict` on the champion's run, against the endpoint."""
    sample = videos[0]
    run = get_version(store, MODEL).run_name
    result = CliRunner().invoke(
        cli, ["predict", f"{store}/{run}", sample.uri, "--views", str(VIEWS), "--crops", str(CROPS), "--json"]
    )
    assert result.exit_code == 0, result.output
    served = client.post("/v1/predict", content=Path(sample.uri).read_bytes()).json()
    assert_same_answer(served, json.loads(result.stdout))


def test_concurrent_requests_share_a_batch(client, videos, offline, store):
    number = get_version(store, MODEL).version
    samples = [videos[index % len(videos)] for index in range(24)]
    bodies = [Path(sample.uri).read_bytes() for sample in samples]
    with ThreadPoolExecutor(12) as pool:
        answers = [r.json() for r in pool.map(lambda body: client.post("/v1/predict", content=body), bodies)]
    assert max(answer["batch_size"] for answer in answers) > 1
    for sample, answer in zip(samples, answers, strict=True):
        assert_same_answer(answer, offline(number, sample))


def test_health_and_the_model_that_answers(client, store):
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").status_code == 200
    champion = get_version(store, MODEL)
    about = client.get("/v1/model").json()
    assert (about["model"], about["version"]) == (MODEL, champion.version)
    assert (about["weights_sha256"], about["run"]) == (champion.sha256, champion.run_name)
    assert about["labels"] == {"action": list(CLASSES)}


def sound_only():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty"),
        (b"This is a text and not a video. " * 100, "not_a_video"),
        (np.random.default_rng(0).bytes(20_000), "not_a_video"),
        (sound_only(), "no_video_stream"),
    ],
    ids=["nothing", "text", "noise", "sound"],
)
def test_a_body_that_is_not_a_video(client, body, code):
    assert_error(client.post("/v1/predict", content=body), 400, code)
    assert_error(client.post("/v1/predict", files={"file": body}), 400, code)


def test_a_video_that_is_cut_off(client, videos):
    video = Path(videos[0].uri).read_bytes()
    assert_error(client.post("/v1/predict", content=video[: len(video) // 2]), 400, "truncated")


def test_a_video_without_the_flow_that_a_model_needs(service, store, videos, client):
    trained(store, videos, "flow", seed=4, modality="rgb_flow")
    before, version = get_version(store, MODEL), register(store, "flow", MODEL)
    with pytest.raises(TrackingError), service.deployed(version):
        refused = client.post("/v1/predict", content=Path(videos[0].uri).read_bytes())
        assert_error(refused, 400, "wrong_modality")
        assert "optical flow" in refused.json()["error"]["message"]
        set_champion(store, MODEL, 12345)  # there is no such version: the one before comes back
    assert client.get("/v1/model").json()["version"] == before.version


def test_forms_that_contain_no_file(client):
    assert_error(client.post("/v1/predict", files={"video": b"x"}), 400, "bad_form")
    assert_error(client.post("/v1/predict", files={"other": (None, "text")}), 400, "bad_form")
    multipart = {"Content-Type": "multipart/form-data"}
    assert_error(client.post("/v1/predict", content=b"x", headers=multipart), 400, "bad_form")
    bounded = {"Content-Type": "multipart/form-data; boundary=b"}
    assert_error(client.post("/v1/predict", content=b"not a form", headers=bounded), 400, "bad_form")


def test_a_body_that_is_too_large(client):
    def unannounced():
        for _ in range(20):
            yield bytes(MAX_BYTES // 10)

    assert_error(client.post("/v1/predict", content=bytes(MAX_BYTES + 1)), 413, "too_large")
    assert_error(client.post("/v1/predict", content=unannounced()), 413, "too_large")
    assert_error(client.post("/v1/predict", files={"file": bytes(MAX_BYTES)}), 413, "too_large")
    # A body of the allowed size is read, and is then not a video.
    assert_error(client.post("/v1/predict", content=bytes(MAX_BYTES)), 400, "not_a_video")


def test_what_does_not_exist(client):
    assert_error(client.get("/v1/nothing"), 404, "not_found")
    assert_error(client.get("/v1/predict"), 405, "method_not_allowed")


class Load:
    """Clients that send videos without a pause; every answer is kept."""

    def __init__(self, service, videos, clients=3):
        self._service = service
        self._videos = [(sample, Path(sample.uri).read_bytes()) for sample in videos]
        self._clients = clients
        self._stop = threading.Event()
        self.answers = []
        self.failures = []

    def __enter__(self):
        self._threads = [threading.Thread(target=self._send, args=(i,)) for i in range(self._clients)]
        for thread in self._threads:
            thread.start()
        return self

    def _send(self, turn):
        with httpx.Client(base_url=self._service.url, timeout=60) as client:
            while not self._stop.is_set():
                turn += 1
                sample, video = self._videos[turn % len(self._videos)]
                try:
                    response = client.post("/v1/predict", content=video)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                if response.status_code == 200:
                    self.answers.append((sample, response.json()))
                else:
                    self.failures.append((response.status_code, response.text[:300]))

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait(self, answers):
        """Wait until this many more answers have arrived."""
        target, deadline = len(self.answers) + answers, time.monotonic() + 60
        while len(self.answers) < target and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(self.answers) >= target

    def versions(self):
        return {answer["version"] for _, answer in self.answers}


def test_a_promotion_loses_no_request_and_mixes_no_versions(service, store, videos, offline, client):
    before = get_version(store, MODEL).version
    with Load(service, videos) as load:
        load.wait(5)
        outcome = promote("wide", storage=store)
        load.wait(5)
    assert not load.failures
    assert outcome.served
    assert load.versions() == {before, outcome.version}
    # Nothing that was decoded for one version was classified by the other.
    for sample, answer in load.answers:
        assert_same_answer(answer, offline(answer["version"], sample))
    assert load.answers[-1][1]["version"] == outcome.version
    assert get_version(store, MODEL).version == outcome.version
    assert get_version(store, MODEL, "previous").version == before
    assert client.get("/v1/model").json()["version"] == outcome.version


def test_a_checkpoint_with_corrupt_weights_changes_nothing(service, store, videos, client):
    before = get_version(store, MODEL)
    uri = trained(store, videos, "corrupt", seed=4)
    weights = Path(uri) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 0xFF
    weights.write_bytes(content)
    with Load(service, videos) as load:
        load.wait(2)
        with pytest.raises(CheckpointError) as error:
            promote("corrupt", storage=store)
        assert "model.safetensors" in error.value.key
        load.wait(2)
    assert not load.failures
    assert load.versions() == {before.version}
    assert get_version(store, MODEL) == before
    assert client.get("/v1/model").json()["version"] == before.version


def test_a_version_that_replicas_cannot_load_leaves_the_old_one_serving(service, store, videos, client):
    """What the checks before a deployment cannot see: the weights change before the replica reads them."""
    before = get_version(store, MODEL)
    other = dataclasses.replace(before, version=before.version + 100, content="0" * 64)
    with Load(service, videos) as load:
        load.wait(2)
        with pytest.raises(ServingError) as error, service.deployed(other):
            pytest.fail("it was deployed")
        assert (error.value.code, error.value.key) == ("cannot_be_served", MODEL)
        # What the replica raised is part of the message.
        assert f"version {other.version}" in error.value.problem and "the files of" in error.value.problem
        load.wait(2)
    assert not load.failures
    assert load.versions() == {before.version}
    assert client.get("/v1/model").json()["version"] == before.version


def test_an_alias_that_cannot_be_set_puts_the_old_version_back(service, store, client):
    before = get_version(store, MODEL)
    other = get_version(store, MODEL, "previous")
    with pytest.raises(TrackingError), service.deployed(other):
        assert client.get("/v1/model").json()["version"] == other.version
        set_champion(store, MODEL, 12345)
    assert client.get("/v1/model").json()["version"] == before.version
    assert get_version(store, MODEL) == before


def test_rollback_goes_back_and_leaves_other_applications_alone(service, store, videos, client, offline):
    deploy_other_application(service, client)
    champion, previous = get_version(store, MODEL), get_version(store, MODEL, "previous")
    outcome = rollback(storage=store)
    assert (outcome.version, outcome.served) == (previous.version, True)
    answer = client.post("/v1/predict", content=Path(videos[0].uri).read_bytes()).json()
    assert_same_answer(answer, offline(previous.version, videos[0]))
    assert get_version(store, MODEL) == previous
    assert get_version(store, MODEL, "previous") == champion
    assert client.get("/other").text == "still here"


def deploy_other_application(service, client):
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    assert service.http_options()["host"] == "127.0.0.1"  # also makes this process authenticate itself
    cluster = ServeSubmissionClient(service.dashboard)
    running = cluster.get_serve_details()["applications"]
    other = {"name": "other", "route_prefix": "/other", "import_path": "other_application:app"}
    cluster.deploy_applications(
        {"applications": [*(one["deployed_app_config"] for one in running.values()), other]}
    )
    deadline = time.monotonic() + 60
    while client.get("/other").status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert client.get("/other").text == "still here"


def test_another_model_does_not_touch_the_service(service, store, client):
    before = client.get("/v1/model").json()
    assert not promote("b", storage=store, model_name="another-model").served
    assert client.get("/v1/model").json() == before


def test_a_storage_is_served_once(service, store):
    with pytest.raises(ServingError) as error:
        serve(storage=store)
    assert error.value.code == "served_already" and str(service.pid) in error.value.problem


def test_without_a_champion_there_is_nothing_to_serve(tmp_path):
    for verb in (serve, rollback):
        with pytest.raises(TrackingError) as error:
            verb(storage=str(tmp_path))
        assert (error.value.code, error.value.key) == ("unknown_version", MODEL)


def test_a_service_that_cannot_be_reached_is_one_clear_error(service):
    away = dataclasses.replace(service, dashboard="http://127.0.0.1:9")
    with pytest.raises(ServingError) as error:
        away.http_options()
    assert (error.value.code, error.value.key) == ("unreachable", "http://127.0.0.1:9")


def test_a_shell_with_a_proxy(service, store, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")  # so that it is as before in the end
    monkeypatch.setenv("NO_PROXY", "")
    assert service.http_options()["host"] == "127.0.0.1"
    assert service.version() == get_version(store, MODEL).version


def replicas(service, deployment):
    """The pids of the processes of a deployment."""
    details = service._details()["applications"]["kineray"]["deployments"][deployment]
    return {replica["pid"] for replica in details["replicas"] if replica["state"] == "RUNNING"}


@pytest.mark.parametrize("deployment", ["Decoder", "Model", "Api"])
def test_a_replica_that_dies(service, videos, client, deployment):
    """Its requests are repeated; those of the HTTP replica, which holds them, can only be refused."""
    video = Path(videos[0].uri).read_bytes()
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(client.post, "/v1/predict", content=video) for _ in range(24)]
        (pid,) = replicas(service, deployment)
        os.kill(pid, signal.SIGKILL)
        futures += [pool.submit(client.post, "/v1/predict", content=video) for _ in range(12)]
        answers = [future.result() for future in futures]
    for answer in answers:
        if answer.status_code != 200:
            assert deployment == "Api"
            assert_error(answer, 503, "unavailable")
            assert answer.headers["retry-after"]
    assert client.post("/v1/predict", content=video).status_code == 200
    assert replicas(service, deployment).isdisjoint({pid})


def drip(service, answers):
    """One byte a second, until the service ends the connection."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=1) as connection:
        head = f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode())
        received = b""
        with contextlib.suppress(ConnectionError):
            while True:
                with contextlib.suppress(TimeoutError):
                    received += (part := connection.recv(4096))
                    if not part:
                        break
                    continue
                connection.sendall(b"x")
        answers.append(received)


def test_overload_and_slow_clients_leave_the_service_healthy(service, videos, client):
    video = Path(videos[0].uri).read_bytes()
    dripped = []
    slow = [threading.Thread(target=drip, args=(service, dripped)) for _ in range(110)]
    for thread in slow:
        thread.start()
    while not dripped:
        assert client.post("/v1/predict", content=video).status_code == 200
    for thread in slow:
        thread.join()
    refused = [answer for answer in dripped if answer.endswith(b"}")]  # others lose it with the connection
    assert refused and all(answer.startswith(b"HTTP/1.1 408 ") for answer in refused)
    assert all(b'{"error":{"code":"slow_body"' in answer for answer in refused)

    limits = httpx.Limits(max_connections=200)
    with (
        httpx.Client(base_url=service.url, timeout=120, limits=limits) as crowd,
        ThreadPoolExecutor(160) as pool,
    ):
        load = [pool.submit(crowd.post, "/v1/predict", content=video) for _ in range(160)]
        waits = []
        while not all(future.done() for future in load):
            for path in ("/v2/health/live", "/v2/health/ready"):
                started = time.monotonic()
                assert client.get(path).status_code == 200
                waits.append(time.monotonic() - started)
            time.sleep(0.1)
        answers = [future.result() for future in load]
    assert len(waits) > 2 and max(waits) < 4
    assert {answer.status_code for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert_error(answer, 503, "overloaded")
            assert answer.headers["retry-after"]


def test_head_origins_and_a_time_limit_of_the_client(service, client, videos):
    assert client.head("/v2/health/live").status_code == 200
    answer = client.get("/v1/model", headers={"Origin": "https://example.org"})
    assert answer.headers["access-control-allow-origin"] == "https://example.org"
    video = Path(videos[0].uri).read_bytes()
    hurried = client.post("/v1/predict", content=video, headers={"x-request-timeout-seconds": "0.001"})
    assert_error(hurried, 408, "timeout")


def test_a_service_in_the_background_that_cannot_start(store, tmp_path, monkeypatch, service):
    """What ends its process is what the caller gets, and the process is gone."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    moved = tmp_path / "moved"
    shutil.copytree(store, moved)
    with pytest.raises(KinerayError) as error:
        serve(storage=str(moved), background=True)
    assert (error.value.code, error.value.key) == ("unreachable", "RAY_ADDRESS")
    assert find_service(str(moved)) is None
    assert "RAY_ADDRESS" in (moved / "serve.log").read_text()
