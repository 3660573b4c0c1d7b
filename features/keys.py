"""Partitions and the key layout of Redis. Nothing else builds a key.

Whatever one atomic step touches shares a hash tag, and so a slot of a Redis Cluster: `{p7}` holds the users of
partition 7, their log and the ids already seen; `{i7}` the item rows of item partition 7 and how far they reach.
"""

from dataclasses import dataclass

import xxhash


def partition_of(entity_id: str, n_partitions: int) -> int:
    """The partition of a user, and likewise of an item: xxh3_64 of the id, modulo their number."""
    return int(xxhash.xxh3_64_intdigest(entity_id.encode()) % n_partitions)


def digest(user: str, event_id: str) -> bytes:
    """16 bytes that stand for one event of one user; ids of different users never meet."""
    return bytes(xxhash.xxh3_128_digest(f"{len(user)}:{user}{event_id}".encode()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """Key layout of one deployment."""

    n_partitions: int = 64
    """Partitions of users, and of items; fixed when the store is created."""
    prefix: str = "hr"

    def user_partition(self, user: str) -> int:
        """Partition of a user."""
        return partition_of(user, self.n_partitions)

    def item_partition(self, item: str) -> int:
        """Partition of an item."""
        return partition_of(item, self.n_partitions)

    def user(self, user: str) -> str:
        """Packed state of a user."""
        return f"{self.prefix}:{{p{self.user_partition(user)}}}:u:{user}"

    def users(self) -> str:
        """Prefix of every user's key, and of others."""
        return f"{self.prefix}:{{p"

    def user_of(self, key: bytes) -> str | None:
        """The user whose state a key of prefix `users` holds; None if it holds something else."""
        _, mark, user = key.decode().partition("}:u:")
        return user if mark else None

    def log(self, partition: int) -> str:
        """Log of a partition, a stream."""
        return f"{self.prefix}:{{p{partition}}}:log"

    def seen(self, partition: int) -> str:
        """Prefix of the rotating sets of event digests."""
        return f"{self.prefix}:{{p{partition}}}:seen:"

    def draft(self, partition: int) -> str:
        """A copy of the log without what is erased, until it takes its place."""
        return f"{self.prefix}:{{p{partition}}}:draft"

    def drafted(self, partition: int) -> str:
        """By whom that copy is made."""
        return f"{self.prefix}:{{p{partition}}}:drafted"

    def erasing(self, partition: int) -> str:
        """Hash of erasure -> whom it is about, while it is under way."""
        return f"{self.prefix}:{{p{partition}}}:erasing"

    def erased(self, erasure: str) -> str:
        """When an erasure was done; of whom nothing is kept."""
        return f"{self.prefix}:erased:{erasure}"

    def erased_to(self) -> str:
        """Hash of partition -> position up to which entries were erased from its log."""
        return f"{self.prefix}:erased_to"

    def trimmed(self, partition: int) -> str:
        """Position of the last entry that is gone from the log."""
        return f"{self.prefix}:{{p{partition}}}:trimmed"

    def mark(self, partition: int) -> str:
        """What is written to have all writes before it confirmed."""
        return f"{self.prefix}:{{p{partition}}}:mark"

    def item(self, item: str) -> str:
        """Packed row of an item."""
        return f"{self.prefix}:{{i{self.item_partition(item)}}}:r:{item}"

    def items(self) -> str:
        """Prefix of every item row's key, and of those of `positions`."""
        return f"{self.prefix}:{{i"

    def item_of(self, key: bytes) -> str | None:
        """The item whose row a key of prefix `items` holds; None if it holds something else."""
        _, mark, item = key.decode().partition("}:r:")
        return item if mark else None

    def positions(self, item_partition: int) -> str:
        """Hash of log partition -> position up to which these item rows are folded; `held`: by whom they are held."""
        return f"{self.prefix}:{{i{item_partition}}}:pos"

    def files(self) -> str:
        """Hash of file name -> where its chunks are."""
        return f"{self.prefix}:files"

    def chunk(self, token: str, number: int) -> str:
        """A part of a file."""
        return f"{self.prefix}:file:{token}:{number}"

    def readers(self) -> str:
        """Hash of reader -> positions that it has read to."""
        return f"{self.prefix}:readers"

    def quarantine(self) -> str:
        """Hash of source -> why what it sends does not count."""
        return f"{self.prefix}:quarantine"

    def api_keys(self) -> str:
        """Hash of id -> API key."""
        return f"{self.prefix}:keys"

    def demands(self) -> str:
        """Hash of door -> what it was asked for by each key."""
        return f"{self.prefix}:demands"

    def actions(self) -> str:
        """List of what was done with power, newest first."""
        return f"{self.prefix}:actions"

    def trimming(self) -> str:
        """Positions up to which entries may be gone from the logs."""
        return f"{self.prefix}:trimming"

    def settings(self) -> str:
        """Hash of what is fixed at creation: partitions, format, clock."""
        return f"{self.prefix}:settings"
