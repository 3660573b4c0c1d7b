"""A machine becomes a node: what it sources before `ray start`, and who may read it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.cli import main
from deployments.cluster import ClusterConfig
from deployments.environment import LOOPBACK, ray_environment, serve_environment
from deployments.errors import ConfigError
from deployments.node import GCS_REDIS, head_settings, write_node


def sourced(file: Path, name: str) -> str:
    """What a shell knows a variable as that has sourced the file."""
    script = f'source {shlex.quote(str(file))} && printf %s "${name}"'
    shell = {"PATH": "/usr/bin:/bin"}
    return subprocess.run(["bash", "-c", script], env=shell, check=True, capture_output=True, text=True).stdout


def test_a_node_is_started_under_the_settings_of_one_machine_but_for_ports_and_interfaces(tmp_path: Path) -> None:
    file = write_node(tmp_path / "a node", n_cores=2)
    draining_s = ClusterConfig().draining_s
    common = serve_environment(
        tmp_path / "a node", draining_s=draining_s, proxy_draining_s=draining_s, n_proxy_threads=1
    )
    common |= ray_environment(LOOPBACK)
    given = {name: sourced(file, name) for name in common}
    assert {name: value for name, value in given.items() if common[name] != value} == {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5.0",
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "120.0",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"/tmp/headrace-{os.getuid()}/admin.sock",
    }
    assert sourced(file, "PATH") == f"{Path(sys.executable).parent}:/usr/bin:/bin"


def test_many_cores_get_more_threads_of_haproxy(tmp_path: Path) -> None:
    name = "RAY_SERVE_HAPROXY_NBTHREAD"
    assert [sourced(write_node(tmp_path, n_cores=n_cores), name) for n_cores in (2, 15, 16)] == ["1", "1", "2"]


def test_haproxys_own_pages_stay_on_the_node_while_its_front_is_everybodys(tmp_path: Path) -> None:
    wrapper, rendered = Path(sourced(write_node(tmp_path), "RAY_SERVE_HAPROXY_BINARY_PATH")), tmp_path / "haproxy.cfg"
    front = "frontend http_frontend\n    bind *:8000\nbackend default_backend\n"  # what Ray makes of 0.0.0.0
    rendered.write_text(f"frontend prometheus\n    bind :9101\n{front}listen stats\n    bind *:8404\n")
    subprocess.run([wrapper, "-db", "-f", rendered, "-v"], check=True, capture_output=True)
    binds = [line.split()[1] for line in rendered.read_text().splitlines() if line.strip().startswith("bind")]
    assert binds == ["127.0.0.1:9101", "*:8000", "127.0.0.1:8404"]


@pytest.mark.parametrize(
    ("gcs_redis", "address", "options"),
    [
        ("192.0.2.20:6379", "192.0.2.20:6379", ""),
        ("redis://192.0.2.20:6379", "192.0.2.20:6379", ""),
        ("redis://:s3%2Fcret@redis.example:6380/", "redis.example:6380", "--redis-password=s3/cret"),
        ("rediss://me:s3cret@h:1", "rediss://h:1", "--redis-username=me --redis-password=s3cret"),
    ],
)
def test_a_head_keeps_what_it_knows_in_a_redis(gcs_redis: str, address: str, options: str, tmp_path: Path) -> None:
    file = write_node(tmp_path, gcs_redis=gcs_redis)
    assert sourced(file, "RAY_REDIS_ADDRESS") == address
    assert sourced(file, "HEADRACE_HEAD_OPTIONS") == options
    assert file.stat().st_mode & 0o077 == 0
    assert sourced(write_node(tmp_path), "RAY_REDIS_ADDRESS") == ""


@pytest.mark.parametrize("wrong", ["host", "host:port", "http://h:1", "redis://h:1/3", "redis://:a%20b@h:1", "[h"])
def test_another_address_is_refused_by_name_and_nothing_is_written(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=GCS_REDIS):
        head_settings(wrong)
    monkeypatch.setenv(GCS_REDIS, wrong)
    assert main(["node", "--folder", str(tmp_path / "node")]) == 1
    assert not (tmp_path / "node").exists()
