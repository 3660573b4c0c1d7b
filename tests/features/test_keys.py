"""Laws of the key layout."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.keys import Keys, digest, partition_of

ids = st.text(min_size=1, max_size=12)
KEYS = Keys()


def tag(key: str) -> str:
    """What a Redis Cluster hashes."""
    return key[key.index("{") + 1 : key.index("}")]


@given(ids)
def test_what_one_write_touches_shares_a_slot(user: str) -> None:
    partition = KEYS.user_partition(user)
    assert {tag(KEYS.user(user)), tag(KEYS.log(partition)), tag(KEYS.seen(partition))} == {f"p{partition}"}


@given(ids)
def test_a_row_shares_a_slot_with_its_positions(item: str) -> None:
    assert tag(KEYS.item(item)) == tag(KEYS.positions(KEYS.item_partition(item)))


@given(ids, ids)
def test_different_ids_have_different_keys(one: str, other: str) -> None:
    assert (KEYS.user(one) == KEYS.user(other)) == (one == other)
    assert KEYS.user(one) != KEYS.item(other)


@given(ids, st.integers(1, 1024))
def test_a_partition_lies_in_range(user: str, n_partitions: int) -> None:
    assert 0 <= partition_of(user, n_partitions) < n_partitions


def test_partitions_are_the_same_in_every_process_and_release() -> None:
    assert [partition_of(user, 64) for user in ("u1", "u2", "ü")] == [49, 14, 46]


def test_partitions_are_even() -> None:
    sizes = [0] * 64
    for n in range(64_000):
        sizes[partition_of(str(n), 64)] += 1
    assert 850 < min(sizes) <= max(sizes) < 1150


@given(ids, ids, ids, ids)
def test_events_of_different_users_never_share_a_digest(user: str, event: str, user_2: str, event_2: str) -> None:
    assert len(digest(user, event)) == 16
    assert (digest(user, event) == digest(user_2, event_2)) == ((user, event) == (user_2, event_2))


@pytest.mark.parametrize(("user", "event"), [("a", "bc"), ("ab", "c")])
def test_where_the_user_ends_is_part_of_the_digest(user: str, event: str) -> None:
    assert digest(user, event) not in {digest(*pair) for pair in (("a", "bc"), ("ab", "c")) if pair != (user, event)}


def test_deployments_with_other_prefixes_share_no_key() -> None:
    other = Keys(prefix="other")
    assert other.settings() != KEYS.settings()
    assert other.log(0) != KEYS.log(0)
