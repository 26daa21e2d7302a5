"""The Ray Serve application of a running service: what it serves is replaced, and waited for.

Its declarative configuration is read and written through the REST API of the cluster's dashboard.
"""

import contextlib
import dataclasses
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from kineray.config import check_main_guard, loaded_plugins
from kineray.errors import ServingError
from kineray.network import bypass_proxies, direct
from kineray.serving import record
from kineray.tracking import ModelVersion

log = logging.getLogger(__name__)

APPLICATION = "kineray"

_IMPORT_PATH = "kineray.serving.app:build"
_DEPLOY_TIMEOUT_S = 600.0
_ATTEMPTS = 3
_POLL_S = 0.5


class Service(record.Record):
    """A running service."""

    @contextlib.contextmanager
    def deployed(self, version: ModelVersion) -> Iterator[None]:
        """Replace the served version; the body runs when ``version`` answers every request.

        The old replicas answer until the new ones do. If the new ones cannot start (ServingError) or the
        body raises, the old version is restored; in the first case it has never stopped answering.
        """
        before = self._deployed_application()
        try:
            self._put({**before, "args": {**before["args"], **_pin(version)}})
            self._wait_for(version.version)
            yield
        except BaseException as error:
            if isinstance(error, ServingError) and error.code == "superseded":
                raise
            log.info("version %s answers again", before["args"]["version"])
            self._put(before)
            self._wait_for(before["args"]["version"])
            raise

    def start(self, version: ModelVersion, args: dict[str, Any], http: dict[str, Any]) -> None:
        """Deploy the application on a cluster on which it is not running yet."""
        application = {
            "name": APPLICATION,
            "route_prefix": "/",
            "import_path": _IMPORT_PATH,
            "args": {**args, **_pin(version)},
        }
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._put(application, http=http)
                break
            except ServingError:  # Serve gives its own processes a minute
                if attempt == _ATTEMPTS:
                    raise
                log.info("Ray Serve is slow to start on this machine; trying again")
        self._wait_for(version.version)

    def stop(self) -> None:
        """Remove the application from the cluster; those of others stay, also another service's."""
        application = self.application()
        if application is not None and application["args"].get("service") == self.id:
            self._put(None)

    def version(self) -> int | None:
        """The version that answers, or None if none does."""
        try:
            with direct.open(f"{self.url}/v1/model", timeout=10) as response:
                answer = json.load(response)
        except (OSError, ValueError):  # refused, timed out, an error status, not JSON
            return None
        return int(answer["version"])

    def http_options(self) -> dict[str, Any] | None:
        """The host and port at which Serve listens on this cluster; None if it is not running."""
        options: dict[str, Any] | None = self._details().get("http_options")
        return options

    def application(self) -> dict[str, Any] | None:
        """The configuration of the application on this cluster; None if it has none."""
        config: dict[str, Any] | None = (
            self._details()["applications"].get(APPLICATION, {}).get("deployed_app_config")
        )
        return config

    def _deployed_application(self) -> dict[str, Any]:
        config = self.application()
        if config is None:
            raise ServingError(
                f"Ray Serve has no application '{APPLICATION}'",
                code="no_application",
                key=self.dashboard,
                remedy="start the service again",
            )
        return config

    def _put(self, application: dict[str, Any] | None, http: dict[str, Any] | None = None) -> None:
        """Write the whole configuration: this application, and the others unchanged."""
        details = self._details()
        applications = [
            other["deployed_app_config"]
            for name, other in details["applications"].items()
            if name != APPLICATION and other.get("deployed_app_config") is not None
        ]
        if application is not None:
            applications.append(application)
        config: dict[str, Any] = {"applications": applications}
        for key in ("http_options", "grpc_options", "proxy_location"):
            if details.get(key) is not None:
                config[key] = details[key]
        if http is not None:
            config["http_options"] = http
        with self._reaching():
            self._client().deploy_applications(config)

    def _wait_for(self, version: int) -> None:
        deadline, waits_for = time.monotonic() + _DEPLOY_TIMEOUT_S, ""
        while time.monotonic() < deadline:
            details = self._details()["applications"].get(APPLICATION, {})
            deployed = (details.get("deployed_app_config") or {}).get("args", {}).get("version", version)
            if deployed != version:
                raise ServingError(
                    f"version {deployed} has been deployed meanwhile",
                    code="superseded",
                    key=self.model_name,
                    remedy="promote one at a time",
                )
            status = details.get("status")
            if status == "DEPLOY_FAILED":
                raise ServingError(
                    f"version {version} cannot be served: {_reason(details)}",
                    code="cannot_be_served",
                    key=self.model_name,
                    remedy="the previous version still answers",
                )
            if status == "RUNNING" and self.version() == version:
                return
            now = _awaited(details)
            if now != waits_for:
                waits_for = now
                log.info("waiting for version %d: %s", version, now)
            time.sleep(_POLL_S)
        raise ServingError(
            f"version {version} did not answer within {_DEPLOY_TIMEOUT_S:.0f} s",
            code="no_answer",
            key=self.url,
            remedy=f"see {self.dashboard}",
        )

    def _details(self) -> dict[str, Any]:
        with self._reaching():
            details: dict[str, Any] = self._client().get_serve_details()
        return details

    def _client(self) -> Any:
        bypass_proxies(urlsplit(self.dashboard).hostname or "")
        if self.token_auth and os.environ.get("RAY_AUTH_MODE") != "token":
            from ray._raylet import Config  # type: ignore[attr-defined]

            os.environ["RAY_AUTH_MODE"] = "token"
            Config.initialize("")  # Ray may have been imported, and have read the variable, already
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

        return ServeSubmissionClient(self.dashboard)

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        from ray.exceptions import RayError
        from requests.exceptions import RequestException

        try:
            yield
        except (RequestException, ConnectionError, RuntimeError, RayError) as error:
            raise ServingError(
                f"the service of process {self.pid} on {self.host} cannot be reached: {_short(str(error))}",
                code="unreachable",
                key=self.dashboard,
                remedy=f"run this on {self.host}, or start the service again",
            ) from None


def find_service(storage: str) -> Service | None:
    """The running service of this storage folder, or None.

    The record that a killed service left behind, and one that was copied with its storage, are ignored.
    Raises StorageError, and ServingError if ``serve.json`` is not the record of a service.
    """
    found = record.read(storage)
    return None if found is None else Service(**dataclasses.asdict(found))


def _pin(version: ModelVersion) -> dict[str, Any]:
    """The arguments of the application that pin the version it serves and the version's plug-ins."""
    check_main_guard("kineray.promote or kineray.serve")
    plugins = [plugin.to_json() for plugin in loaded_plugins()]
    return {**dataclasses.asdict(version), "plugins": plugins}


def _awaited(details: dict[str, Any]) -> str:
    """What keeps the application from answering, for people."""
    deployments = details.get("deployments", {})
    if not deployments:
        return "Ray Serve reads the application"
    waiting = []
    for name, deployment in deployments.items():
        if deployment.get("status") != "HEALTHY":
            states = [replica["state"].lower() for replica in deployment.get("replicas", ())]
            waiting.append(f"{name} ({', '.join(sorted(states)) or 'no process yet'})")
    return "; ".join(sorted(waiting)) or "the first answer"


def _reason(details: dict[str, Any]) -> str:
    """The error that kept replicas from starting, in one line, extracted from Serve's messages."""
    messages = [details.get("message") or ""]
    messages += [deployment.get("message") or "" for deployment in details.get("deployments", {}).values()]
    text = "\n".join(messages)
    raised = re.findall(r"kineray\.errors\.\w+: (.+)", text) or re.findall(
        r"^\w[\w.]*Error: (.+)$", text, re.M
    )
    return _short(raised[-1] if raised else text)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:300]}..."
