"""The cluster files: they are valid for Ray itself, and nodes and settings are as they say."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
AWS = ("ray_cluster.yaml", "infra/two_gpus.yaml")
FILES = (*AWS, "infra/local_cluster.yaml")


def load(name):
    return yaml.safe_load((ROOT / name).read_text())


def set_up_command(config):
    (command,) = (c for c in config["setup_commands"] if "set_up_node.sh" in c)
    return shlex.split(command)


def mistake_in(config):
    """The error of `ray up` about a cluster's configuration; None if it would start."""
    try:
        validate_config(prepare_config(config))
    except jsonschema.ValidationError as error:
        return error.message
    return None


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_the_file(name):
    assert mistake_in(load(name)) is None


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        (lambda config: config.update(max_worker=16), "'max_worker' was unexpected"),
        (
            lambda config: config["available_node_types"]["gpu"].update(min_worker=16),
            "'min_worker' was unexpected",
        ),
        (lambda config: config.update(idle_timeout_minutes="soon"), "'soon' is not of type 'number'"),
    ],
)
def test_ray_refuses_a_misspelt_file(change, mistake):
    config = load("ray_cluster.yaml")
    change(config)
    assert mistake in mistake_in(config)


@pytest.mark.parametrize(("name", "hosts", "gpus"), [(AWS[0], 16, 128), (AWS[1], 2, 2)])
def test_the_aws_clusters_have_their_gpus_and_a_head_that_trains_nothing(name, hosts, gpus):
    config = prepare_config(load(name))
    workers = config["available_node_types"]["gpu"]
    assert workers["min_workers"] == workers["max_workers"] == config["max_workers"] == hosts
    assert workers["resources"]["GPU"] * workers["min_workers"] == gpus
    assert workers["node_config"]["IamInstanceProfile"] == {"Name": "kineray-worker"}
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "head": 1}
    assert head["node_config"]["IamInstanceProfile"] == {"Name": "kineray-head"}
    assert f"KINERAY_WORKERS={gpus}" in set_up_command(config)


def test_the_cluster_to_try_out_differs_only_in_its_size():
    large, small = map(load, AWS)
    for config in (large, small):
        workers = config["available_node_types"]["gpu"]
        for key in ("min_workers", "max_workers", "resources"):
            del workers[key]
        del config["cluster_name"], config["max_workers"], config["upscaling_speed"]
        del workers["node_config"]["InstanceType"]
        config["setup_commands"] = [re.sub(r"KINERAY_WORKERS=\d+", "", c) for c in config["setup_commands"]]
    assert large == small


# What differs from user to user: places, names, sizes, hosts.
OWN = {
    *("region", "availability_zone", "InstanceType", "IamInstanceProfile", "max_workers", "min_workers"),
    *("head_ip", "worker_ips", "ssh_user", "ssh_private_key", "KINERAY_STORAGE", "KINERAY_WORKERS"),
    "AWS_DEFAULT_REGION",
}
KEPT = ("m6i.2xlarge", "ubuntu                                 # of the image")


@pytest.mark.parametrize("name", FILES)
def test_every_value_that_must_be_changed_is_marked(name):
    """In its line; words of a folded command in the comment above it."""
    text = (ROOT / name).read_text().partition("cluster_name")[2]
    comments = "".join(line for line in text.splitlines() if line.startswith("#"))
    announced = set(re.findall(r"\w+", comments.partition("CHANGE")[2]))
    for line in text.splitlines():
        key, separator = (re.match(r"\s*(\w+)([:=])", line) or re.match("()()", "")).groups()
        if key in OWN and not any(kept in line for kept in KEPT):
            assert "CHANGE" in line if separator == ":" else key in announced, line


@pytest.mark.parametrize("name", AWS)
def test_the_cost_is_that_of_its_instances(name):
    """The sum is right for the instances and the prices that the file states, and so is the quota."""
    about = (ROOT / name).read_text().partition("cluster_name")[0].replace("\n# ", " ")
    found = re.search(
        r"about ([\d.]+) USD an hour \((\d+) x ([\d.]+) for (\S+), ([\d.]+) for the head", about
    )
    total, count, each, kind, head = found.groups()
    workers = load(name)["available_node_types"]["gpu"]
    assert (int(count), kind) == (workers["min_workers"], workers["node_config"]["InstanceType"])
    assert float(total) == pytest.approx(int(count) * float(each) + float(head), rel=0.01)
    vcpus = int(re.search(r"quota of (\d+) vCPUs", about)[1])
    assert vcpus == workers["min_workers"] * workers["resources"]["CPU"]


@mock_aws
def test_the_policies_are_valid_and_allow_what_each_node_needs(monkeypatch):
    import boto3

    for setting in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(setting, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    iam = boto3.client("iam", "us-west-2")
    for kind, starts_instances in (("head", True), ("worker", False)):
        text = (ROOT / "infra/iam" / f"{kind}.json").read_text()
        iam.create_role(RoleName=f"kineray-{kind}", AssumeRolePolicyDocument="{}")
        iam.put_role_policy(  # moto checks its form
            RoleName=f"kineray-{kind}", PolicyName="kineray", PolicyDocument=text.replace("BUCKET", "b")
        )
        statements = json.loads(text)["Statement"]
        actions = {action for statement in statements for action in statement["Action"]}
        assert {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"} <= actions
        assert ("ec2:RunInstances" in actions) == ("iam:PassRole" in actions) == starts_instances
        buckets = {s["Resource"] for s in statements if "s3:" in str(s["Action"])}
        assert buckets == {"arn:aws:s3:::BUCKET", "arn:aws:s3:::BUCKET/*"}


@pytest.mark.parametrize("name", FILES)
def test_what_a_node_installs_from_is_copied_to_it(name):
    config = load(name)
    copied = {
        Path(local) for remote, local in config["file_mounts"].items() if remote.startswith("~/kineray/")
    }
    for path in copied:
        assert (ROOT / path).exists()
    # The files that `make setup` reads, and the package with its scripts.
    needed = {"Makefile", "pyproject.toml", "requirements.lock", "README.md", "LICENSE", "platform", "infra"}
    assert {str(path) for path in copied} == needed
    assert config["file_mounts"]["~/.ray"] == "~/.ray"  # the token of RAY_AUTH_MODE=token
    for command in (*config["head_start_ray_commands"], *config["setup_commands"]):
        for word in shlex.split(command):
            if word.startswith("~/kineray/"):
                assert (ROOT / word.removeprefix("~/kineray/")).exists()


def environment_of(name, home, **more):
    """The environment of a shell on a node of this cluster file, made by its real set-up script."""
    home.mkdir(exist_ok=True)
    (home / ".bashrc").write_text("case $- in *i*) ;; *) return ;; esac\n")
    _, script, *settings = set_up_command(load(name))
    script = script.replace("~/kineray", str(ROOT))
    existing = ["KINERAY_ENVIRONMENT=/opt/with space"]
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], **more}
    for _ in range(2):  # `ray up` runs it again
        subprocess.run(["bash", script, *settings, *existing], env=environment, check=True)
    done = subprocess.run(
        ["bash", "-c", ". ~/.bashrc; env -0"],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert (home / ".bashrc").read_text().count("kineray_env") == 1
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


@pytest.mark.parametrize("name", FILES)
def test_every_shell_of_every_node_has_the_settings(name, tmp_path):
    _, _, *settings = set_up_command(load(name))
    worker = environment_of(name, tmp_path / "worker", RAY_HEAD_IP="10.0.0.7")
    assert {f"{key}={value}" for key, value in worker.items()} >= set(settings)
    assert worker["KINERAY_STORAGE"].startswith("s3://")
    assert worker["RAY_AUTH_MODE"] == "token"
    assert worker["MLFLOW_TRACKING_URI"] == "http://10.0.0.7:5000"
    assert worker["GLOO_SOCKET_IFNAME"] == worker["NCCL_SOCKET_IFNAME"] != "lo"
    routes = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
    defaults = [interface for interface, destination, *_ in routes if int(destination, 16) == 0]
    if defaults:  # else this machine has no network
        assert worker["GLOO_SOCKET_IFNAME"] == defaults[0]
    assert worker["PATH"].startswith("/opt/with space/bin:")
    assert worker["PYTHONPATH"] == str(ROOT / "platform")
    # On the head RAY_HEAD_IP is not set: it uses its own address, at which the workers reach it.
    head = environment_of(name, tmp_path / "head")
    addresses = subprocess.run(["hostname", "-I"], check=True, capture_output=True, text=True).stdout.split()
    assert head["MLFLOW_TRACKING_URI"] == f"http://{(addresses or [''])[0]}:5000"


def test_a_tracker_and_an_interface_that_are_given_are_kept(tmp_path):
    script = set_up_command(load("ray_cluster.yaml"))[1].replace("~/kineray", str(ROOT))
    given = ["KINERAY_ENVIRONMENT=/e", "MLFLOW_TRACKING_URI=http://mlflow:80", "NETWORK_INTERFACE=ib0"]
    subprocess.run(
        ["bash", script, *given], env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]}, check=True
    )
    exports = (tmp_path / ".kineray_env").read_text()
    assert "MLFLOW_TRACKING_URI=http://mlflow:80" in exports
    assert "GLOO_SOCKET_IFNAME=ib0 NCCL_SOCKET_IFNAME=ib0" in exports
    failed = subprocess.run(["bash", script, "no-setting"], capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert "'no-setting': expected NAME=VALUE" in failed.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", AWS)
@mock_aws
def test_aws_accepts_the_nodes(name, tmp_path, monkeypatch):
    """Ray's own bootstrap against moto's AWS: subnets, security group, key pair, images, profiles."""
    import boto3

    for setting in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(setting, "test")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    iam = boto3.client("iam", "us-west-2")
    for profile in ("kineray-head", "kineray-worker"):
        iam.create_instance_profile(InstanceProfileName=profile)
    config = _bootstrap_config(prepare_config(load(name)), no_config_cache=True)
    for node_type in config["available_node_types"].values():
        node = node_type["node_config"]
        assert node["ImageId"].startswith("ami-")
        assert node["SubnetIds"]
        assert node["SecurityGroupIds"]
        assert node["KeyName"]
    gpu = config["available_node_types"]["gpu"]
    ec2 = boto3.resource("ec2", "us-west-2")
    zones = {ec2.Subnet(subnet).availability_zone for subnet in gpu["node_config"]["SubnetIds"]}
    assert zones == {"us-west-2a"}
    # The file promises the resources that this type of instance really has.
    kind = gpu["node_config"]["InstanceType"]
    (real,) = ec2.meta.client.describe_instance_types(InstanceTypes=[kind])["InstanceTypes"]
    promised = gpu["resources"]["CPU"], gpu["resources"]["GPU"]
    assert promised == (real["VCpuInfo"]["DefaultVCpus"], real["GpuInfo"]["Gpus"][0]["Count"])

    provider = _get_node_provider(config["provider"], config["cluster_name"])
    tags = {"ray-node-type": "worker", "ray-user-node-type": "gpu"}
    provider.create_node(gpu["node_config"], tags, 1)
    (instance,) = list(ec2.instances.all())
    assert instance.instance_type == kind
    assert instance.iam_instance_profile["Arn"].endswith("kineray-worker")
