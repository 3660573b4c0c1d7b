"""What a load is: where requests go, how many at a time and how fast; their bytes, and where an answer ends.

Pure; `benchmarks.loadgen` sends it.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What to send, how, and for how long."""

    port: int
    bodies: tuple[bytes, ...]
    """Bodies of the requests, sent in turn."""
    headers: tuple[tuple[str, str], ...] = ()
    """Beside those that every request has."""
    path: str = "/v1/rank"
    host: str = "127.0.0.1"
    n_connections: int = 1
    duration_s: float = 5.0
    """Measured time; the warm-up comes before it."""
    warmup_s: float = 1.0
    rate_per_s: float | None = None
    """Arrivals per second; None: closed loop."""
    then: tuple[tuple[float, float], ...] = ()
    """Open loop: (arrivals per second, seconds) that follow without a gap; measured too."""
    drain_s: float = 5.0
    """How long answers are waited for after the last request."""
    niceness: int = 0
    """Added to that of a process of its own."""
    gives_way: bool = False
    """Whether a process of its own runs only while nobody else wants a processor, as if it had one elsewhere."""

    def __post_init__(self) -> None:
        if not self.bodies or self.n_connections < 1 or self.duration_s <= 0:
            raise ValueError("a load needs a body, a connection and a duration")
        if self.rate_per_s is None and self.then:
            raise ValueError("then: a closed loop has no rate to change")
        for rate_per_s in (self.rate_per_s, *(rate for rate, _ in self.then)):
            if rate_per_s is not None and rate_per_s <= 0:
                raise ValueError(f"rate_per_s: expected a positive rate, got {rate_per_s}")

    @property
    def measured_s(self) -> float:
        """Measured time, of all rates together."""
        return self.duration_s + sum(seconds for _, seconds in self.then)


def requests_of(load: Load) -> list[bytes]:
    """The bytes of every request."""
    fields = {"host": f"{load.host}:{load.port}", "content-type": "application/json", **dict(load.headers)}
    head = f"POST {load.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return [f"{head}content-length: {len(body)}\r\n\r\n".encode() + body for body in load.bodies]


def answer_length(received: bytes) -> int:
    """Bytes of the whole answer, head and body; 0 while the head is incomplete.

    Raises:
        ValueError: If the answer does not say how long it is.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return 0
    head = received[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError(f"an answer without content-length: {received[:200]!r}")
    return end + 4 + int(head[at + 17 :].split(b"\r\n", 1)[0])
