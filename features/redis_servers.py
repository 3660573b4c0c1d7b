"""The servers of a store: one, or the masters of a Redis Cluster. Which of the two is found out by asking.

    commands, each with the slot of its keys ─► the slot's master ─► one pipeline for each master, all at once
                          ▲                                                      │
                          └── MOVED, ASK, TRYAGAIN, nobody there: it did not run ┘

A command is sent on only when it surely did not run. What was lost on the way may have run, and is told as lost.

Who has which slot is asked again when a server is lost or sends one on. A slot that is moved by hand, key by key, takes
no command of several keys until all of it has moved (TRYAGAIN); the servers' own atomic migration holds up nothing.

Knows neither keys nor records.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, ResponseError, TryAgainError

from features.errors import FeatureError, StoreUnavailable
from features.redis_node import PIPELINE_MAX, Command, Confirmation, RedisNode, Unreached, judged

N_SLOTS: Final = 16384
MAX_HOPS: Final = 5  # from server to server, for one command
TRY_AGAIN_S: Final = 0.02
REFRESH_S: Final = 0.1  # between two questions about who has which slot, at least
LISTEN_S: Final = 1.0  # the same while listening: a new master is heard of so much later at most
GETS_AT_ONCE: Final = 256  # a row takes the server a thirtieth of what an event does, a person a quarter (bench_store)

Addressed = tuple[int, Command]
"""A command, and the slot of its keys."""
Confirm = Callable[[int], Confirmation]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Topology:
    """Who has which slot."""

    masters: list[RedisNode]
    owners: list[RedisNode]
    """Of every slot; empty for a server that is no cluster."""

    @property
    def is_cluster(self) -> bool:
        """Whether keys are spread, so that a command takes those of one slot only."""
        return bool(self.owners)

    def owner(self, slot: int) -> RedisNode:
        """The server of a slot."""
        return self.owners[slot] if self.owners else self.masters[0]


class RedisServers:
    """Commands to the servers that have their keys.

    Args:
        url: `redis://[user:password@]host:port/db`, or `rediss://` for TLS; for a cluster any of its servers, or some
            with commas between. Options behind it are those of redis-py.
        timeout_s: How long to wait for a connection, and for the replies to one pipeline.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._scheme, _, rest = url.partition("://")
        account, at, rest = rest.rpartition("@")
        self._account = account + at
        hosts, slash, options = rest.partition("/")
        self._options = slash + options
        self._timeout_s = timeout_s
        self._nodes: dict[str, RedisNode] = {}
        self._seeds = [self._node(address) for address in hosts.split(",")]
        self._topology: Topology | None = None
        self._asked_s = -REFRESH_S
        self._asking: asyncio.Task[None] | None = None

    async def find(self) -> Topology:
        """Who has which slot, as far as is known; asks if nothing is.

        Raises:
            FeatureError: If nobody answers.
        """
        if self._topology is None:
            self._topology = await self._ask(self._seeds)
        return self._topology

    async def pipeline(
        self,
        commands: Sequence[Addressed],
        *,
        wait_s: float = 0.0,
        at_once: int = PIPELINE_MAX,
        confirm: Confirm | None = None,
    ) -> list[Any]:
        """Run commands; those of one slot in their order.

        Args:
            wait_s: How much longer than usual a blocking command may take.
            at_once: Commands sent together to one server.
            confirm: Says for a slot what must be so before the writes of its server count.
        Returns:
            A reply for each command, or the `FeatureError` that stands for it.
        """
        try:
            topology = await self.find()
        except FeatureError as error:
            return [error] * len(commands)
        if not topology.is_cluster:
            return [
                judged(reply) for reply in await _send(topology.masters[0], commands, False, wait_s, at_once, confirm)
            ]
        replies: list[Any] = [None] * len(commands)
        left: Collection[int] = range(len(commands))
        invited: dict[int, RedisNode] = {}
        for _ in range(MAX_HOPS):
            topology = await self.find()
            sent = {index: invited.get(index) or topology.owner(commands[index][0]) for index in left}
            lots: dict[tuple[RedisNode, bool], list[int]] = {}
            for index, node in sent.items():
                lots.setdefault((node, index in invited), []).append(index)
            sending = [
                _send(node, [commands[index] for index in lot], is_invited, wait_s, at_once, confirm)
                for (node, is_invited), lot in lots.items()
            ]
            for lot, answers in zip(lots.values(), await asyncio.gather(*sending), strict=True):
                for index, answer in zip(lot, answers, strict=True):
                    replies[index] = answer
            left, invited = await self._not_run(sent, commands, replies)
            if not left:
                break
        return [judged(reply) for reply in replies]

    async def call(self, slot: int, *command: bytes | str | int, wait_s: float = 0.0) -> Any:
        """Run one command.

        Raises:
            FeatureError: What `pipeline` would return in place of the reply.
        """
        (reply,) = await self.pipeline([(slot, command)], wait_s=wait_s)
        if isinstance(reply, FeatureError):
            raise reply
        return reply

    async def each(self, *command: bytes | str | int) -> list[Any]:
        """Run a command on every master.

        Raises:
            FeatureError: If one of them does not answer.
        """
        return list(await asyncio.gather(*(node.call(*command) for node in await self.masters())))

    async def masters(self) -> list[RedisNode]:
        """Every master; asks anew who they are if one was lost.

        Raises:
            FeatureError: If nobody answers.
        """
        if any(node.is_away for node in (await self.find()).masters):
            await self._refresh()
        return (await self.find()).masters

    async def get(self, keys: Sequence[str]) -> list[bytes | FeatureError]:
        """Values of keys, empty for what is not there; of a server that is known to be away an error, at once."""
        try:
            topology = await self.find()
        except FeatureError as error:
            return [error] * len(keys)
        if not topology.is_cluster:
            return await _get_from(topology.masters[0], keys)
        slots = [key_slot(key.encode()) for key in keys]
        values: list[Any] = [_away(node) if node.is_away else None for node in map(topology.owner, slots)]
        there = [index for index, value in enumerate(values) if value is None]
        if len(there) < len(keys):
            self._refresh_soon()
        gets: list[Addressed] = [(slots[index], ("GET", keys[index])) for index in there]
        for index, value in zip(there, await self.pipeline(gets, at_once=GETS_AT_ONCE), strict=True):
            values[index] = value or b""
        return values

    async def written(self, prefix: str) -> AsyncIterator[tuple[list[bytes] | None, float]]:
        """What `RedisNode.written` tells, of all masters; begins when all are listened to.

        Raises:
            StoreUnavailable: When one of them is lost, or others have taken their place.
        """
        topology = await self.find()
        if not topology.is_cluster:
            async for told in topology.masters[0].written(prefix):
                yield told
            return
        queue: asyncio.Queue[_Told] = asyncio.Queue()
        listening = [asyncio.create_task(_listen(node, prefix, queue)) for node in topology.masters]
        until_s: dict[RedisNode, float] = {}
        refreshed_s = time.monotonic()
        try:
            while self._topology is topology:
                node, keys, until_s[node] = await queue.get()
                if isinstance(keys, FeatureError):
                    self._refresh_soon()
                    raise keys
                if len(until_s) == len(listening):  # the last one begins with None: whatever was before does not count
                    yield keys, min(until_s.values())
                if time.monotonic() - refreshed_s >= LISTEN_S:
                    await self._refresh()
                    refreshed_s = time.monotonic()
            raise StoreUnavailable("slots have moved; listening begins anew")
        finally:
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)

    async def close(self) -> None:
        """Close every connection."""
        if self._asking is not None:
            self._asking.cancel()
        for node in self._nodes.values():
            await node.close()

    async def _not_run(
        self, sent: dict[int, RedisNode], commands: Sequence[Addressed], replies: Sequence[Any]
    ) -> tuple[list[int], dict[int, RedisNode]]:
        """Which commands did not run and are to be sent again; and whom an ASK invited to which server."""
        again: list[int] = []
        invited: dict[int, RedisNode] = {}
        unreached: list[int] = []
        movers: list[RedisNode] = []
        for index, node in sent.items():
            reply = replies[index]
            if isinstance(reply, MovedError):
                movers.append(self._named(reply, node))
                again.append(index)
            elif isinstance(reply, AskError):
                invited[index] = self._named(reply, node)
                again.append(index)
            elif isinstance(reply, TryAgainError):
                again.append(index)
            elif isinstance(reply, Unreached):
                unreached.append(index)
            elif isinstance(reply, StoreUnavailable):
                self._refresh_soon()
        if movers or unreached:
            await self._refresh(movers)
            topology = await self.find()
            again += [index for index in unreached if topology.owner(commands[index][0]) is not sent[index]]
        if any(isinstance(replies[index], TryAgainError) for index in again):
            await asyncio.sleep(TRY_AGAIN_S)
        return sorted(again), invited

    def _refresh_soon(self) -> None:
        """Ask who has which slot, unless somebody does, or did a moment ago."""
        if time.monotonic() - self._asked_s >= REFRESH_S:
            self._begin_asking(())

    async def _refresh(self, first: Iterable[RedisNode] = ()) -> None:
        """Ask who has which slot, `first` before others, and wait for what they say; if nobody does, all stays."""
        await asyncio.shield(self._begin_asking(first))

    def _begin_asking(self, first: Iterable[RedisNode]) -> asyncio.Task[None]:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_again(first))
        return self._asking

    async def _ask_again(self, first: Iterable[RedisNode]) -> None:
        known = self._topology.masters if self._topology else []
        try:
            topology = await self._ask([*first, *sorted(known, key=lambda node: node.is_away), *self._seeds])
        except FeatureError as error:
            logger.warning("who has which slot is not known anew: %s", error)
        else:
            if topology != self._topology:
                self._topology = topology
                for node in set(known) - set(topology.masters):
                    node.give_up()
        self._asked_s = time.monotonic()

    async def _ask(self, nodes: Iterable[RedisNode]) -> Topology:
        """What the first says that knows."""
        failure = FeatureError("no server to ask")
        for node in dict.fromkeys(nodes):
            (reply,) = await node.run([("CLUSTER", "SLOTS")])
            if isinstance(reply, ResponseError) and "cluster support disabled" in str(reply):
                return Topology([node], [])
            ranges = judged(reply)
            if isinstance(ranges, FeatureError):
                failure = ranges
            elif not ranges:
                failure = StoreUnavailable(f"{node.address}: a cluster without slots; add some")
            else:
                return self._cut(ranges, node)
        raise failure

    def _cut(self, ranges: Sequence[Any], asked: RedisNode) -> Topology:
        """The answer to CLUSTER SLOTS; whoever was asked refuses commands for slots that nobody has."""
        owners = [asked] * N_SLOTS
        for first, last, (host, port, *_), *_ in sorted(ranges):
            owners[first : last + 1] = [self._node(_address(host.decode() if host else "", port, asked))] * (
                last - first + 1
            )
        return Topology(list(dict.fromkeys(owners)), owners)

    def _named(self, reply: AskError, asked: RedisNode) -> RedisNode:
        return self._node(_address(reply.host, reply.port, asked))

    def _node(self, address: str) -> RedisNode:
        if address not in self._nodes:
            url = f"{self._scheme}://{self._account}{address}{self._options}"
            self._nodes[address] = RedisNode(url, self._timeout_s)
        return self._nodes[address]


_Told = tuple[RedisNode, list[bytes] | FeatureError | None, float]


async def _listen(node: RedisNode, prefix: str, queue: asyncio.Queue[_Told]) -> None:
    """Queue what a server tells, and in the end what became of it."""
    try:
        async for keys, until_s in node.written(prefix):
            queue.put_nowait((node, keys, until_s))
    except FeatureError as error:
        queue.put_nowait((node, error, 0.0))


async def _get_from(node: RedisNode, keys: Sequence[str]) -> list[bytes | FeatureError]:
    """What `get` gives where there is one server."""
    if not keys:
        return []
    (reply,) = [_away(node)] if node.is_away else await node.run([("MGET", *keys)])
    values = judged(reply)
    return [values] * len(keys) if isinstance(values, FeatureError) else [value or b"" for value in values]


def _away(node: RedisNode) -> StoreUnavailable:
    return StoreUnavailable(f"{node.address}: away")


async def _send(
    node: RedisNode,
    commands: Sequence[Addressed],
    is_invited: bool,
    wait_s: float,
    at_once: int,
    confirm: Confirm | None,
) -> list[Any]:
    """Raw replies of one server; an invited command is announced, else it would be sent back."""
    plain = [command for _, command in commands]
    confirmation = confirm(commands[0][0]) if confirm else None
    if not is_invited:
        return await node.run(plain, wait_s=wait_s, at_once=at_once, confirmation=confirmation)
    announced = [part for command in plain for part in (("ASKING",), command)]
    return (await node.run(announced, wait_s=wait_s, at_once=at_once, confirmation=confirmation))[1::2]


def _address(host: str, port: int, asked: RedisNode) -> str:
    """Where a server is, in the words of another; who names no host means its own."""
    host = host or asked.address.rpartition(":")[0].strip("[]")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
