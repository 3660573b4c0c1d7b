"""The clusters of `deployments/clusters` are what `ray up` and its cloud accept. No cloud is asked.

Ray's own code reads each file, fills in what it lacks, and starts a node of each type; the clouds are simulated below
the clients that Ray uses (moto for AWS, `google_cloud.py` for Google's).
"""

import copy
import json
import re
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import boto3
import httplib2
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from moto import mock_aws
from moto import settings as moto_settings
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.aws.utils import resource_cache
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import TAG_RAY_NODE_NAME, TAG_RAY_USER_NODE_TYPE

from tests.deployments import aws_commands
from tests.deployments.google_cloud import PROJECT, GoogleCloud

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "deployments" / "clusters"
CLOUDS = ("aws", "gcp")
pytestmark = pytest.mark.timeout(120)  # moto knows a thousand types of instances, and takes seconds to list them
NODE_TYPES = ("head", "serving", "learning")
ROLES = ("serving", "learning")
REGION = "us-east-1"
OPERATOR = "198.51.100.0/24"
COMMANDS = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
)


def written(cloud: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTERS / f"{cloud}.yaml").read_text())


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants to leave this process is refused, by name."""

    def connect(_: socket.socket, address: Any) -> None:
        raise AssertionError(f"a test wanted to connect to {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with the operator's key."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    key = Ed25519PrivateKey.generate().public_key()
    (tmp_path / ".ssh" / "headrace.pub").write_bytes(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return tmp_path


class Aws:
    """A simulated AWS account with a private subnet, made ready as the guide says."""

    def __init__(self, home: Path) -> None:
        self.ec2 = boto3.client("ec2", REGION)
        self.iam = boto3.client("iam", REGION)
        vpc = self.ec2.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
        self.subnet = self.ec2.create_subnet(VpcId=vpc, CidrBlock="10.20.1.0/24")["Subnet"]["SubnetId"]
        guide = (CLUSTERS / "README.md").read_text()
        given = {"VPC": vpc, "OPERATOR": OPERATOR, "HOME": str(home)}
        self.known = aws_commands.run(aws_commands.commands_of(guide), ROOT, given, REGION)

    def edited(self) -> dict[str, Any]:
        """The cluster with what is marked EDIT filled in."""
        text = (CLUSTERS / "aws.yaml").read_text()
        text = text.replace("subnet-0123456789abcdef0", self.subnet)
        return yaml.safe_load(text.replace("sg-0123456789abcdef0", self.known["NODES"]))

    def ready(self, config: dict[str, Any]) -> dict[str, Any]:
        """What `ray up` makes of a file, but for asking what types of instances there are: that takes moto seconds."""
        prepared = prepare_config(config)
        validate_config(prepared)
        return AWSNodeProvider.bootstrap_config(prepared)

    def started(self, config: dict[str, Any], node_type: str) -> dict[str, Any]:
        """An instance of a node type, as Ray starts it."""
        ready = self.ready(config)
        provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
        (instance,) = provider.create_node(*node_of(ready, node_type))
        (reservation,) = self.ec2.describe_instances(InstanceIds=[instance])["Reservations"]
        return reservation["Instances"][0]


def node_of(ready: dict[str, Any], node_type: str) -> tuple[dict[str, Any], dict[str, str], int]:
    """What `ray up` gives its provider in order to start one node."""
    head = ready["head_node"] if node_type == ready["head_node_type"] else {}
    config = {**head, **ready["available_node_types"][node_type]["node_config"]}
    return copy.deepcopy(config), {TAG_RAY_USER_NODE_TYPE: node_type, TAG_RAY_NODE_NAME: f"ray-{node_type}"}, 1


@pytest.fixture
def aws(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody's")
    monkeypatch.setattr(moto_settings, "EC2_ENABLE_INSTANCE_TYPE_VALIDATION", True)
    resource_cache.cache_clear()
    with mock_aws():
        yield Aws(home)
    resource_cache.cache_clear()


@pytest.fixture
def google(home: Path, monkeypatch: pytest.MonkeyPatch) -> GoogleCloud:
    cloud = GoogleCloud()
    monkeypatch.setattr(httplib2.Http, "request", lambda _, *given, **named: cloud.request(*given, **named))
    return cloud


def for_google() -> dict[str, Any]:
    """The cluster as it is written, with an operator who has logged in."""
    config = written("gcp")
    config["provider"]["gcp_credentials"] = {"type": "credentials_token", "credentials": "nobody's"}
    return config


def started_by_google(google: GoogleCloud, config: dict[str, Any], node_type: str) -> dict[str, Any]:
    """An instance of a node type, as Ray starts it."""
    ready = _bootstrap_config(config, no_config_cache=True)
    provider = GCPNodeProvider(ready["provider"], ready["cluster_name"])
    (name,) = provider.create_node(*node_of(ready, node_type))
    return google.instances[name]


def changed(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The same with another value at a path, or without it if the value is `...`."""
    config = copy.deepcopy(config)
    *to, last = path.split(".")
    at: Any = config
    for name in to:
        at = at[int(name)] if isinstance(at, list) else at[name]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return config


@pytest.mark.parametrize("cloud", CLOUDS)
def test_what_is_common_is_said_as_in_the_cluster_of_own_machines(cloud: str):
    """But for what the start says of roles, which belong to types of nodes, and of who reaches them, to the cloud."""
    root, ours = yaml.safe_load((ROOT / "cluster.yaml").read_text()), written(cloud)
    for name in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        of_own = r" --resources='\{[^']*\}'| export HEADRACE_PEERS='[^']*';| HEADRACE_PEERS='[^']*'"
        told = [re.sub(of_own, "", command) for command in root[name]]
        assert ours[name] == told
    assert [ours[name] for name in ("file_mounts", "rsync_exclude")] == [root["file_mounts"], root["rsync_exclude"]]


def test_what_the_clouds_have_in_common_is_said_the_same():
    one, other = written("aws"), written("gcp")
    own = {"provider", "auth", "available_node_types", "head_setup_commands"}
    assert {name: value for name, value in one.items() if name not in own} == {
        name: value for name, value in other.items() if name not in own
    }
    for node_type in NODE_TYPES:
        counts = [config["available_node_types"][node_type] for config in (one, other)]
        assert counts[0].get("min_workers") == counts[1].get("min_workers")
        assert counts[0].get("max_workers") == counts[1].get("max_workers")


@pytest.mark.parametrize("cloud", CLOUDS)
def test_roles_belong_to_types(cloud: str):
    types = written(cloud)["available_node_types"]
    assert {name: {role for role in ROLES if role in kind["resources"]} for name, kind in types.items()} == {
        "head": set(),
        "serving": {"serving"},
        "learning": {"learning"},
    }


@pytest.mark.parametrize("cloud", CLOUDS)
def test_no_more_workers_than_all_types_may_have(cloud: str):
    config = written(cloud)
    workers = [kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]]
    assert all(1 <= kind["min_workers"] <= kind["max_workers"] for kind in workers)
    assert config["max_workers"] == sum(kind["max_workers"] for kind in workers)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_no_command_of_rays_defaults_slips_in(cloud: str):
    ours, ready = written(cloud), prepare_config(written(cloud))
    assert ready["head_setup_commands"] == ours["setup_commands"] + ours["head_setup_commands"]
    assert ready["worker_setup_commands"] == ours["setup_commands"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_commands_are_sound_shell(cloud: str):
    config = written(cloud)
    for command in [command for name in COMMANDS for command in config[name]]:
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, f"{command}\n{checked.stderr}"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_head_gets_the_clients_that_are_tested_here(cloud: str):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (command,) = written(cloud)["head_setup_commands"]
    assert f"headrace[{cloud}]" in command
    assert set(extras[cloud]) <= set(extras["dev"])
    for pin in extras[cloud]:
        name, _, number = pin.partition("==")
        assert version(name) == number


def rules_of(aws: Aws, group: str) -> set[tuple[str, int | None, str]]:
    """What may come in: protocol, port, and from where, of every rule."""
    (found,) = aws.ec2.describe_security_groups(GroupIds=[aws.known[group]])["SecurityGroups"]
    return {
        (rule["IpProtocol"], rule.get("FromPort"), origin)
        for rule in found["IpPermissions"]
        for origin in (
            *(pair["GroupId"] for pair in rule["UserIdGroupPairs"]),
            *(span["CidrIp"] for span in rule["IpRanges"]),
            *(span["CidrIpv6"] for span in rule["Ipv6Ranges"]),
        )
    }


def test_aws_nodes_are_open_to_each_other_to_callers_and_to_the_operator(aws: Aws):
    assert rules_of(aws, "NODES") == {
        ("-1", None, aws.known["NODES"]),
        ("tcp", 8000, aws.known["CALLERS"]),
        ("tcp", 22, OPERATOR),
    }
    assert rules_of(aws, "CALLERS") == set()


@pytest.mark.parametrize("node_type", NODE_TYPES)
def test_aws_starts_a_node_of_each_type(aws: Aws, node_type: str):
    node = aws.started(aws.edited(), node_type)
    (interface,) = node["NetworkInterfaces"]
    assert "PublicIpAddress" not in node
    assert (interface["SubnetId"], [group["GroupId"] for group in interface["Groups"]]) == (
        aws.subnet,
        [aws.known["NODES"]],
    )
    assert (node["MetadataOptions"]["HttpTokens"], node["MetadataOptions"]["HttpPutResponseHopLimit"]) == (
        "required",
        1,
    )
    (disk,) = aws.ec2.describe_volumes(VolumeIds=[node["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]])["Volumes"]
    assert (disk["Encrypted"], disk["VolumeType"], disk["Size"]) == (True, "gp3", 60)
    assert ("IamInstanceProfile" in node) == (node_type == "head")


@pytest.mark.parametrize("node_type", NODE_TYPES)
def test_a_processor_of_aws_is_a_core(aws: Aws, node_type: str):
    """A replica fills a core; half of a hyper-threaded one would do half."""
    kind = written("aws")["available_node_types"][node_type]
    named = [kind["node_config"]["InstanceType"]]
    (sold,) = aws.ec2.describe_instance_types(InstanceTypes=named)["InstanceTypes"]
    assert sold["VCpuInfo"]["DefaultThreadsPerCore"] == 1
    assert kind["resources"]["CPU"] in {0, sold["VCpuInfo"]["DefaultVCpus"]}


def test_ray_up_takes_the_aws_cluster(aws: Aws):
    """By the whole of its way, with the types of instances that AWS has."""
    ready = _bootstrap_config(aws.edited(), no_config_cache=True)
    assert {name: kind["resources"]["CPU"] for name, kind in ready["available_node_types"].items()} == {
        **{"head": 0, "serving": 8, "learning": 4}
    }
    assert ready["available_node_types"]["serving"]["resources"]["memory"] > 16 * 2**30  # found out from the type


def test_ray_makes_nothing_of_its_own_in_the_account(aws: Aws):
    def things() -> list[Any]:
        return [
            aws.ec2.describe_security_groups()["SecurityGroups"],
            aws.ec2.describe_key_pairs()["KeyPairs"],
            aws.iam.list_roles()["Roles"],
        ]

    before = things()
    aws.started(aws.edited(), "head")
    assert things() == before


def test_the_head_may_do_what_it_does_and_no_more(aws: Aws):
    """Finding the image by its name is EC2's doing, with the head's rights."""
    ready = aws.ready(aws.edited())
    asked: set[str] = set()
    resource_cache.cache_clear()
    boto3.setup_default_session()
    boto3.DEFAULT_SESSION.events.register("before-call", lambda model, **_: asked.add(f"ec2:{model.name}"))
    provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
    (node,) = provider.create_node(*node_of(ready, "serving"))
    assert provider.non_terminated_nodes({}) == [node]
    provider.set_node_tags(node, {"ray-node-status": "up-to-date"})
    provider.terminate_node(node)
    policy = json.loads((CLUSTERS / "aws-head-policy.json").read_text())
    actions = [statement["Action"] for statement in policy["Statement"]]
    allowed = {action for some in actions for action in ([some] if isinstance(some, str) else some)}
    assert asked == allowed - {"ssm:GetParameters"}


NODE = "available_node_types.serving.node_config"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (f"{NODE}.InstanceType", "m7a.3xlarge", "m7a.3xlarge"),
        (f"{NODE}.InstanceKind", "m7a.2xlarge", "InstanceKind"),
        (f"{NODE}.MetadataOptions.HttpTokens", True, "HttpTokens"),
        (f"{NODE}.BlockDeviceMappings.0.Ebs.VolumeSize", "sixty", "VolumeSize"),
        (f"{NODE}.BlockDeviceMappings.0.Ebs.Size", 60, "Size"),
        (f"{NODE}.NetworkInterfaces.0.Groups", ..., "security group"),
        (f"{NODE}.NetworkInterfaces.0.SubnetId", "subnet-0123456789abcdef0", "subnet-0123456789abcdef0"),
        (f"{NODE}.KeyName", ..., "KeyName"),
        ("available_node_types.serving.max_workers", "eight", "max_workers"),
        ("available_node_types.serving.resources.CPU", 7.5, "CPU"),
        ("idle_timeout", 10, "idle_timeout"),
        ("provider.region", "us-east-9", "us-east-9"),
    ],
)
def test_a_mistake_in_the_aws_cluster_is_noticed(
    aws: Aws, path: str, value: Any, message: str, capfd: pytest.CaptureFixture[str]
):
    """Ray says some of them in an exception, others on the way to one without words."""
    config = changed(aws.edited(), path, value)
    capfd.readouterr()
    with pytest.raises((Exception, SystemExit)) as raised:
        aws.started(config, "serving")
    said = "".join(capfd.readouterr())
    assert message in f"{raised.value} {said.rpartition('PANIC')[2] if 'PANIC' in said else ''}"


@pytest.mark.parametrize("node_type", NODE_TYPES)
def test_google_starts_a_node_of_each_type(google: GoogleCloud, node_type: str):
    node = started_by_google(google, for_google(), node_type)
    (interface,) = node["networkInterfaces"]
    assert "accessConfigs" not in interface
    assert "ipv6AccessConfigs" not in interface
    assert node["tags"]["items"] == ["headrace"]
    accounts = [account["email"] for account in node.get("serviceAccounts", [])]
    assert accounts == [f"headrace-head@{PROJECT}.iam.gserviceaccount.com"] * (node_type == "head")


@pytest.mark.parametrize("node_type", NODE_TYPES)
def test_a_processor_of_google_is_a_core(node_type: str):
    """T2D has no hyper-threads; the number of processors is in a type's name."""
    kind = written("gcp")["available_node_types"][node_type]
    series, _, n_processors = kind["node_config"]["machineType"].split("-")
    assert series == "t2d"
    assert kind["resources"]["CPU"] in {0, int(n_processors)}


def test_places_of_google_are_in_the_zone_that_nodes_are_started_in():
    text, provider = (CLUSTERS / "gcp.yaml").read_text(), written("gcp")["provider"]
    assert set(re.findall(r"zones/([\w-]+)/", text)) == {provider["availability_zone"]}
    assert set(re.findall(r"regions/([\w-]+)/", text)) == {provider["region"]}
    assert provider["availability_zone"].startswith(provider["region"])


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (f"{NODE}.machineType", ..., "machineType"),
        (f"{NODE}.machine", "t2d-standard-8", "unknown field"),
        (f"{NODE}.disks.0.boot", "yes", "expected a boolean"),
        (f"{NODE}.disks.0.type", "PERSISTENCE", "expected one of PERSISTENT"),
        (f"{NODE}.disks.0.initializeParams.sizeGb", 60, "unknown field"),
        (f"{NODE}.networkInterfaces", {"subnetwork": "headrace"}, "expected an array"),
        (f"{NODE}.scheduling", [{"preemptible": True}], "expected an object"),
        (f"{NODE}.scheduling", {"provisioningModel": "SPOTTY"}, "expected one of FLEX_START"),
        ("provider.project_id", None, "project_id"),
        ("available_node_types.serving.resources", ..., "resources"),
        ("max_worker", 3, "max_worker"),
    ],
)
def test_a_mistake_in_the_google_cluster_is_noticed(google: GoogleCloud, path: str, value: Any, message: str):
    with pytest.raises(Exception, match=message):
        started_by_google(google, changed(for_google(), path, value), "serving")
