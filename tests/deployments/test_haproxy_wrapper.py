"""The wrapper edits what Ray wrote before HAProxy reads it."""

import subprocess
from pathlib import Path

import pytest

from deployments.cluster import ClusterConfig
from deployments.errors import ConfigError
from deployments.haproxy import write_haproxy_wrapper

# The lines of `ray/serve/_private/haproxy_templates.py` that matter, as Ray 2.60 renders them.
RENDERED = """global
    stats socket /tmp/x/admin.sock mode 666 level admin expose-fd listeners
defaults
    mode http
    errorfile 502 /tmp/x/500.http
    errorfile 503 /tmp/x/500.http
    errorfile 504 /tmp/x/500.http
frontend prometheus
    bind :9101
frontend http_frontend
    bind 127.0.0.1:8000
{routes}listen stats
  bind *:8404
backend http-rank
    http-reuse always
{ranks}backend http-events
    server e1 192.0.2.99:9 check
"""
ROUTES = """    acl is_http-rank path_beg /v1/rank/
    acl is_http-rank path /v1/rank
    acl is_http-events path_beg /
    acl is_http-events path /
"""


def edited(folder: Path, routes: str = ROUTES, ranks: str = "") -> Path:
    """The configuration after the wrapper was run on it."""
    wrapper, rendered = write_haproxy_wrapper(folder, "127.0.0.1"), folder / "haproxy.cfg"
    rendered.write_text(RENDERED.format(routes=routes, ranks=ranks))
    subprocess.run([wrapper, "-db", "-f", rendered, "-v"], check=True, capture_output=True)
    return rendered


def test_the_wrapper_closes_haproxys_own_pages_and_answers_in_json(tmp_path: Path) -> None:
    rendered = edited(tmp_path)
    binds = [line.split()[1] for line in rendered.read_text().splitlines() if line.strip().startswith("bind")]
    files = [line.split()[2] for line in rendered.read_text().splitlines() if line.strip().startswith("errorfile")]
    assert binds == ["127.0.0.1:9101", "127.0.0.1:8000", "127.0.0.1:8404"]
    assert files == [str(tmp_path / f"{name}.http") for name in (*["unavailable"] * 3, "slow")]
    assert "mode 600 level admin" in rendered.read_text()
    front = rendered.read_text().partition("frontend http_frontend\n")[2].partition("listen")[0]
    assert "set-header x-request-disconnect-disabled ?1\n" in front
    assert "set-header x-request-id %[uuid] if !{ req.hdr(x-request-id) -m found }\n" in front


def test_load_is_shed_by_the_name_that_ray_gave_the_route_and_not_before_it_has_one(tmp_path: Path) -> None:
    text = edited(tmp_path).read_text()
    assert "nbsrv(http-rank),mul(64),div(1)" in text and "be_conn(http-rank)" in text
    assert text.partition("backend http-rank\n")[2].startswith("    retry-on conn-failure empty-response\n")
    assert text.count("empty-response") == 1
    text = edited(tmp_path, "").read_text()
    assert "be_conn" not in text and "empty-response" not in text and "x-request-id" in text


def test_the_limits_are_divided_by_the_machines_that_have_replicas(tmp_path: Path) -> None:
    addresses = ("192.0.2.1:30000", "192.0.2.2:30000", "192.0.2.1:30001", "[2001:db8::1]:30000")
    ranks = "".join(f"    server r{number} {address} check\n" for number, address in enumerate(addresses))
    text = edited(tmp_path, ranks=f"{ranks}    server fallback 192.0.2.9:8500 check backup\n").read_text()
    assert [text.count(f"mul({limit}),div(3)") for limit in (64, 24, 8)] == [1, 1, 1]


def test_haproxys_own_answer_is_our_503(tmp_path: Path) -> None:
    write_haproxy_wrapper(tmp_path, "127.0.0.1")
    head, _, body = (tmp_path / "unavailable.http").read_bytes().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"content-length: %d" % len(body) in head
    assert b'"code":"unavailable"' in body


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 0},
        {"port": 65536},
        {"object_store_bytes": 1},
        {"max_in_flight": 0},
        {"calm_in_flight": 0},
        {"calm_in_flight": 9, "max_in_flight": 8},
        {"least_in_flight": 0},
        {"least_in_flight": 9, "calm_in_flight": 8},
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ClusterConfig(**wrong)  # type: ignore[arg-type]
