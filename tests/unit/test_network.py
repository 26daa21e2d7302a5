"""Loopback and the cluster are reached directly, whatever proxy the shell names."""

import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.request import urlopen

import pytest
import requests

from kineray.network import bypass_proxies

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    yield
    for name in ("no_proxy", "NO_PROXY"):  # what the test has set by way of kineray
        os.environ.pop(name, None)


@pytest.fixture
def url():
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"here")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY"])
def test_clients_reach_the_loopback_interface(monkeypatch, url, name):
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(OSError):
        urlopen(url)
    bypass_proxies()
    assert urlopen(url).read() == b"here"
    assert requests.get(url, timeout=5).text == "here"
    with pytest.raises(requests.exceptions.ProxyError):
        requests.get("http://192.0.2.1", timeout=5)
    bypass_proxies("192.0.2.1")
    assert requests.utils.should_bypass_proxies("http://192.0.2.1:8265", None)


def test_what_the_user_listed_stays(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.org, 10.0.0.1")
    bypass_proxies("10.0.0.1", "10.0.0.2")
    bypass_proxies("10.0.0.1", "10.0.0.2")
    assert os.environ["NO_PROXY"] == "example.org,10.0.0.1,localhost,127.0.0.1,::1,10.0.0.2"
    assert not requests.utils.should_bypass_proxies("http://192.0.2.1", None)


def test_a_list_of_one_case_counts_for_the_other(monkeypatch):
    """Clients read one of no_proxy and NO_PROXY, so what kineray adds must not hide the user's list."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.org")
    bypass_proxies()
    assert requests.utils.should_bypass_proxies("http://example.org", None)


def test_all_hosts(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "*")
    bypass_proxies("10.0.0.1")
    assert os.environ["no_proxy"] == "*"
    assert requests.utils.should_bypass_proxies("http://192.0.2.1", None)


def test_without_a_proxy_nothing_changes():
    before = dict(os.environ)
    bypass_proxies("10.0.0.1")
    assert dict(os.environ) == before
