"""What HAProxy keeps from the replicas, so that it costs them nothing: who floods, who is slow, who knocks without end.

    connection ─► its address has too many? ─► closed
    request    ─► its head, and a small body, must come in time ─► 408; to a bad or late head in HAProxy's own words
               ─► its key was refused by a replica for its rate? ─► 429, until the replica's word is over
               ─► its address had too many 401, and its key opened nothing yet? ─► 429
               ─► its address asks for nothing but its health, too often? ─► 429

HAProxy knows no keys. It hears of them in answers: one with `HOLD_HEADER` says how long its key is to be held back, one
of success that a key opens something, until a 401 takes that back. It remembers the SHA-1 of a key, for a minute.
"""

from pathlib import Path
from typing import Final

from deployments.errors import HOLD_HEADER, NotFoundError, OverloadedError, RateError, SlowError
from deployments.haproxy_answers import write_answer, write_denial

HEAD_S: Final = 5.0  # for a request's head, and for as much of its body as a buffer takes, 16 kB
IDLE_S: Final = 60.0  # of a connection, between two requests and in the midst of one
MAX_CONNECTIONS: Final = 2048  # of one address; half of what HAProxy takes in all
MAX_UNAUTHORIZED: Final = 100  # answers 401 a second to one address
MAX_HEALTH: Final = 100  # questions for health a second from one address, which needs no key

# Instants are milliseconds modulo 10^9, for a table keeps 32 bits: every eleven days those who are held are let go.
_FRONT: Final = """\
    timeout http-request {head_ms}ms
    timeout client {idle_ms}ms
    timeout http-keep-alive {idle_ms}ms
    option http-buffer-request
    errorfile 408 {folder}/slow.http
    acl is_health path /v1/health
    acl is_held sc1_get_gpt0,sub(txn.now_ms) 1:3600000
    acl opens_something sc1_get_gpc0 gt 0
    acl knocks_without_end sc2_gpc0_rate gt {max_unauthorized}
    acl asks_without_end sc2_gpc1_rate gt {max_health}
    acl was_health var(txn.is_health) -m found
    tcp-request connection track-sc2 src table headrace_addresses
    tcp-request connection reject if {{ sc2_conn_cur gt {max_connections} }}
    http-request track-sc1 req.hdr(authorization),sha1 table headrace_keys if {{ req.hdr(authorization) -m found }}
    http-request set-var(txn.now_ms) date(0,ms),mod(1000000000)
    http-request deny {no_path} if {{ path -i /-/routes }}
    http-request deny {rate} if is_held
    http-request set-var(txn.is_health) int(1) if is_health
    http-request sc-inc-gpc1(2) if is_health
    http-request deny {knocking} if is_health asks_without_end
    http-request deny {knocking} if knocks_without_end !opens_something !is_health
    http-response set-var(txn.hold_ms) res.hdr_val({hold})
    http-response sc-set-gpt0(1) date(0,ms),mod(1000000000),add(txn.hold_ms) if {{ res.hdr({hold}) -m found }}
    http-response del-header {hold}
    http-response sc-inc-gpc0(2) if {{ status 401 }}
    http-response set-var(txn.opened) sc1_clr_gpc0 if {{ status 401 }}
    http-response sc-inc-gpc0(1) if {{ status 200:299 }} !was_health !opens_something
"""
_TABLES: Final = """
backend headrace_keys
    stick-table type binary len 20 size 100k expire 60s store gpt0,gpc0
backend headrace_addresses
    stick-table type ipv6 size 100k expire 60s store conn_cur,gpc0_rate(1s),gpc1_rate(1s)
"""


def write_guard(folder: Path, *, head_s: float = HEAD_S, max_connections: int = MAX_CONNECTIONS) -> None:
    """Write what stands in the front of HAProxy's configuration (`guard.cfg`), and at its end (`tables.cfg`).

    Args:
        head_s: Within which the head of a request must be there.
        max_connections: Of one address.
    """
    write_answer(folder / "slow.http", SlowError(f"the request did not come within {head_s:g} s"))
    rate = RateError("this key has asked for more than its rate", 1.0)
    knocking = OverloadedError("too many requests without a valid key come from this address; try again")
    front = _FRONT.format(
        folder=folder,
        head_ms=round(1000 * head_s),
        idle_ms=round(1000 * IDLE_S),
        max_connections=max_connections,
        max_unauthorized=MAX_UNAUTHORIZED,
        max_health=MAX_HEALTH,
        hold=HOLD_HEADER,
        no_path=write_denial(folder / "no_path.json", NotFoundError("no such path")),
        rate=write_denial(folder / "rate.json", rate),
        knocking=write_denial(folder / "knocking.json", knocking),
    )
    (folder / "guard.cfg").write_text(front)
    (folder / "tables.cfg").write_text(_TABLES)
