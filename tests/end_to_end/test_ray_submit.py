"""``ray up``, ``ray submit``, ``ray down`` for real: two hosts, each with an sshd and its own network.

Uses infra/local_cluster.yaml as it is, but for the lines that a user changes too, and for the
environment, which the hosts share (KINERAY_ENVIRONMENT) because they have no network to install from.
"""

import json
import os
import sys
import time
from pathlib import Path

import pytest
import yaml
from hosts import GATEWAY, Lab, why_not

from kineray.data.derive.synth import synthesize
from run_docs import blocks

ROOT = Path(__file__).parents[2]
BUCKET = "s3://runs"
S3 = {
    "AWS_ENDPOINT_URL": f"http://{GATEWAY}:5555",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}
# The newer autoscaler starts all workers of the local provider but one.
RAY_UP = {"RAY_UP_enable_autoscaler_v2": "0", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture
def lab(tmp_path):
    reason = why_not()
    if reason is not None:
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    with Lab(tmp_path / "lab", hosts=2) as lab:
        yield lab


def cluster_file(lab, data):
    """infra/local_cluster.yaml with this lab's hosts, bucket, environment and data."""
    config = yaml.safe_load((ROOT / "infra" / "local_cluster.yaml").read_text())
    config["provider"] |= {"head_ip": lab.addresses[0], "worker_ips": lab.addresses[1:]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(lab.key)}
    config["file_mounts"]["~/data/motion"] = str(data)
    (set_up,) = config["setup_commands"]
    assert "s3://my-bucket/kineray" in set_up
    settings = [f"{name}={value}" for name, value in {**S3, "KINERAY_ENVIRONMENT": sys.prefix}.items()]
    config["setup_commands"] = [" ".join([set_up.replace("s3://my-bucket/kineray", BUCKET), *settings])]
    path = lab.folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def python(lab, code, **environment):
    return lab.run(sys.executable, "-c", code, **S3, **environment)


@pytest.mark.slow
@pytest.mark.namespaces
@pytest.mark.timeout(1800)
def test_a_script_trains_on_two_hosts(lab, tmp_path):
    synthesize(tmp_path / "motion", train=64, val=16)
    lab.start("moto_server", "-H", GATEWAY, "-p", "5555")
    python(lab, WAIT_FOR_S3)
    lab.run("ray", "get-auth-token", "--generate")
    cluster = cluster_file(lab, tmp_path / "motion")

    lab.run("ray", "up", "--yes", cluster, timeout_s=600, **RAY_UP)
    # Workers join after `ray up` has returned.
    wait = f'timeout 500 python -c "{WAIT_FOR_HOSTS}"'
    lab.run("ray", "exec", cluster, wait, timeout_s=600)

    # What every shell and every Ray process of every host must know; the package is the copied one.
    for address in lab.addresses:
        known = lab.ssh(address, "bash -ic 'env; python -c \"import kineray; print(kineray.__file__)\"'")
        assert f"KINERAY_STORAGE={BUCKET}\n" in known
        assert f"MLFLOW_TRACKING_URI=http://{lab.addresses[0]}:5000\n" in known
        assert "RAY_AUTH_MODE=token\n" in known
        assert "GLOO_SOCKET_IFNAME=eth0\n" in known
        assert "/home/root/kineray/platform/kineray/__init__.py\n" in known

    # The README's command, on this cluster and its data.
    (block,) = [block for block in blocks((ROOT / "README.md").read_text()) if block.language == "sh cluster"]
    command = block.text.replace("ray_cluster.yaml", cluster)
    command = command.replace("s3://my-bucket/k400/manifest.parquet", "data/motion/manifest.parquet")
    output = lab.run(
        *command.split(),
        *("--smoke", "train.epochs=2", "--workers", "2", "--name", "submitted"),
        timeout_s=600,
    )
    assert "run submitted: 4 steps" in output

    tracker = {"MLFLOW_TRACKING_URI": f"http://{lab.addresses[0]}:5000", "KINERAY_STORAGE": BUCKET}
    run = json.loads(lab.run("kineray", "runs", "show", "submitted", "--json", **S3, **tracker))
    assert run["status"] == "FINISHED"
    assert run["params"]["optim.lr"] == "0.1"
    assert {run["tags"][f"worker.{rank}"].split()[0] for rank in (0, 1)} == {"host1", "host2"}
    assert run["last_checkpoint"].startswith(f"{BUCKET}/submitted/checkpoints/")
    loaded = python(
        lab, f"from kineray.training import load_checkpoint as l; print(l('{run['last_checkpoint']}').state)"
    )
    assert "4" in loaded

    lab.run("ray", "down", "--yes", cluster, timeout_s=300)
    deadline = time.monotonic() + 300
    while "raylet" in lab.run("ps", "ax", "-o", "comm"):  # workers notice that their head is gone
        assert time.monotonic() < deadline
        time.sleep(1)


WAIT_FOR_S3 = """
import time, boto3
for _ in range(300):
    try:
        boto3.client("s3").create_bucket(Bucket="runs")
        break
    except Exception as error:
        last = error
        time.sleep(0.1)
else:
    raise last
"""

WAIT_FOR_HOSTS = """
import ray, time
ray.init(logging_level=50)
while sum(node['Alive'] for node in ray.nodes()) < 2:
    time.sleep(0.5)
"""
