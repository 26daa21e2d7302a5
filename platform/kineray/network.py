"""Which addresses are reached directly, although the shell names a proxy."""

import os
from urllib.request import ProxyHandler, build_opener, getproxies_environment

direct = build_opener(ProxyHandler({}))
"""Opens URLs of this host, or of the cluster, without any proxy."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def bypass_proxies(*hosts: str) -> None:
    """Reach the loopback interface and ``hosts`` without the proxy that ``http_proxy`` and its like name.

    Holds for this process and for those that it starts, and for every HTTP client in them that reads
    ``no_proxy``. Without a proxy in the environment, nothing is changed.
    """
    if not getproxies_environment().keys() - {"no"}:
        return
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""  # as most clients read them
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if "*" not in names:
        names += [host for host in (*_LOOPBACK, *hosts) if host not in names]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(names)
