"""Several hosts on one machine: Linux namespaces with an address, an sshd and processes of their own.

An outer namespace (network, mounts, processes) holds a bridge and stands for the machine that launches
the cluster. Each host has its own network, mounts, processes, name and users in it; of the machine's
files it sees everything but /tmp, /run, /dev/shm and /home, which are its own. When the outer
namespace's first process is killed the kernel ends all processes in it and takes the network away.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

GATEWAY = "10.77.0.254"
_PROGRAMS = ("unshare", "nsenter", "setpriv", "ip", "mount", "ssh", "ssh-keygen", "rsync", "sshd")

_ENVIRONMENT = (sys.prefix, sys.base_prefix)  # the virtual environment and its Python

# `stage` makes new folders in /mnt that `show` puts in place of the machine's; what it is given stays
# visible where it is.
_PRIVATE = """
set -e
own="tmp run dev/shm home"
stage() {
  mount -t tmpfs tmpfs /mnt
  for folder in $own; do
    mkdir -p /mnt/$folder
    for kept in "$@"; do
      case $kept in /$folder/*) mkdir -p "/mnt$kept"; mount --bind "$kept" "/mnt$kept" ;; esac
    done
  done
  chmod 1777 /mnt/tmp /mnt/dev/shm
}
show() { for folder in $own; do mount --rbind /mnt/$folder /$folder; done; }
"""

# $1: the lab's folder; the rest stays visible.
_OUTER = f"""
{_PRIVATE}
stage "$@"
show
ip link set lo up
ip link add br0 type bridge
ip addr add {GATEWAY}/24 dev br0
ip link set br0 up
touch "$1/outer-ready"
exec sleep infinity
"""

# $1: the lab's folder; $2: the host's name; the rest stays visible.
_HOST = f"""
{_PRIVATE}
hostname "$2"
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/etc-hosts" /etc/hosts
stage "${{@:3}}"
mkdir -p -m 700 /mnt/home/root/.ssh
mkdir -p -m 755 /mnt/run/sshd
cp "$1/key.pub" /mnt/home/root/.ssh/authorized_keys
cp "$1/host_key" /mnt/run/host_key
show
exec "$(command -v sshd || echo /usr/sbin/sshd)" -D -e -f /dev/null -h /run/host_key \\
  -o UsePAM=no -o StrictModes=no -o PermitRootLogin=prohibit-password -o PidFile=none
"""


def why_not() -> str | None:
    """What keeps this machine from holding hosts in namespaces, None when nothing does."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    missing = [program for program in _PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: openssh-server openssh-client rsync iproute2)"
    if os.geteuid() != 0:
        return "namespaces need root"
    probe = [
        "unshare",
        "-nmpu",
        "--fork",
        "--mount-proc",
        "sh",
        "-c",
        "ip link add br0 type bridge && mount -t tmpfs t /mnt",
    ]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"namespaces cannot be made: {done.stderr.strip()}"


def _unshare(namespaces: str) -> list[str]:
    return ["unshare", namespaces, "--fork", "--kill-child", "--mount-proc", "bash", "-c"]


class Lab:
    """``with Lab(folder, 2) as lab``: two hosts, 10.77.0.1 and 10.77.0.2, that root can ssh into."""

    def __init__(self, folder: Path, hosts: int) -> None:
        self.folder = folder
        self.addresses = [f"10.77.0.{number}" for number in range(1, hosts + 1)]
        self.key = folder / "key"
        self.home = folder / "home"
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._write_files()
        try:
            # It ends with this process, however this process ends.
            outer = self._spawn(
                [
                    "setpriv",
                    "--pdeathsig",
                    "KILL",
                    *_unshare("-nmp"),
                    _OUTER,
                    "outer",
                    *map(str, self._visible()),
                ],
                "outer",
            )
            self._wait_for((self.folder / "outer-ready").exists, outer)
            children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
            self._first = int(children[0])
            for number, address in enumerate(self.addresses, start=1):
                self._start_host(f"host{number}", f"v{number}", address)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._processes[0].kill()  # takes the first process of the outer namespace with it
        for process in self._processes:
            process.wait(timeout=60)

    def command(self, arguments: Sequence[str]) -> list[str]:
        """``arguments`` as a command that runs in the outer namespace."""
        return [
            "nsenter",
            f"--target={self._first}",
            "--net",
            "--mount",
            "--pid",
            f"--wdns={Path.cwd()}",
            *arguments,
        ]

    def environment(self, **more: str) -> dict[str, str]:
        """For commands in the outer namespace: a home and a temporary folder of their own."""
        kept = {name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ}
        path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {**kept, "PATH": path, "HOME": str(self.home), "TMPDIR": str(self.folder / "tmp"), **more}

    def run(self, *arguments: str, timeout_s: float = 120, **environment: str) -> str:
        """Run a command in the outer namespace; its standard output. An exit code fails with all it said."""
        done = subprocess.run(
            self.command(arguments),
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        said = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, f"{' '.join(arguments)}: exit code {done.returncode}\n{said}"
        return done.stdout

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command in the outer namespace that runs until the lab ends."""
        return self._spawn(self.command(arguments), Path(arguments[0]).name, self.environment(**environment))

    def ssh(self, address: str, command: str) -> str:
        """The output of a shell command on a host."""
        options = [
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
        ]
        return self.run("ssh", *options, "-i", str(self.key), f"root@{address}", command)

    def _start_host(self, name: str, link: str, address: str) -> None:
        self.run("ip", "netns", "add", name)
        for line in (
            f"ip link add {link} type veth peer name eth0 netns {name}",
            f"ip link set {link} master br0 up",
            f"ip -n {name} addr add {address}/24 dev eth0",
            f"ip -n {name} link set lo up",
            f"ip -n {name} link set eth0 up",
            f"ip -n {name} route add default via {GATEWAY}",  # Ray finds its own address through it
        ):
            self.run(*line.split())
        command = ["ip", "netns", "exec", name, *_unshare("-mpu"), _HOST, name, str(self.folder), name]
        host = self._spawn(self.command([*command, *_ENVIRONMENT]), name, self.environment())
        self._wait_for(lambda: "Server listening" in (self.folder / f"{name}.log").read_text(), host)

    def _visible(self) -> list[Path | str]:
        return [self.folder, self.folder.parent, Path.cwd(), *_ENVIRONMENT]

    def _write_files(self) -> None:
        for folder in (self.home, self.folder / "tmp"):
            folder.mkdir(parents=True)
        for key in (self.key, self.folder / "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        users = ["root:x:0:0:root:/home/root:/bin/bash", "sshd:x:102:65534::/run/sshd:/usr/sbin/nologin"]
        (self.folder / "passwd").write_text("\n".join(users) + "\n")
        names = [f"{address} host{number}" for number, address in enumerate(self.addresses, start=1)]
        (self.folder / "etc-hosts").write_text("\n".join(["127.0.0.1 localhost", *names]) + "\n")

    def _spawn(
        self, command: list[str], name: str, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self._processes.append(process)
        return process

    def _wait_for(self, ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 30
        while not ready():
            assert process.poll() is None, f"{process.args}: ended; see {self.folder}/*.log"
            assert time.monotonic() < deadline, f"{process.args}: not ready; see {self.folder}/*.log"
            time.sleep(0.05)
