"""Keys and tokens."""

import msgspec
import pytest

from features.access import ADMIN, EVENTS, RANK, ApiKey, digest_of, id_of, new_key, new_token


def key(token: str, *scopes: str, **options: object) -> ApiKey:
    return new_key(token, "web", scopes or (RANK,), made_ms=1, **options)  # type: ignore[arg-type]


def test_a_key_is_opened_by_its_token_alone() -> None:
    token, other = new_token(), new_token()
    assert key(token).opens(token) and not key(token).opens(other)
    assert not key(token).opens(token[:-1]) and not key(token).opens("") and not key(token).opens("ä")


def test_nothing_that_is_kept_gives_the_token_away() -> None:
    token = new_token()
    secret = token.rpartition("_")[2]
    kept = msgspec.json.encode(key(token)).decode()
    assert secret not in kept and secret not in repr(key(token))
    assert id_of(token) in kept.split('"') and digest_of(token) == key(token).digest


@pytest.mark.parametrize("token", ["", "headrace_", "headrace_0123456789ab_", "hr_" + "0" * 77, new_token() + "0"])
def test_what_is_no_token_has_no_id(token: str) -> None:
    assert id_of(token) is None
    with pytest.raises(ValueError, match="token"):
        key(token)


def test_admin_may_do_everything_and_others_what_they_were_made_for() -> None:
    token = new_token()
    assert all(key(token, ADMIN).may(scope) for scope in (RANK, EVENTS, ADMIN))
    assert [key(token, RANK).may(scope) for scope in (RANK, EVENTS, ADMIN)] == [True, False, False]
    assert [key(token, RANK, EVENTS).may(scope) for scope in (RANK, EVENTS, ADMIN)] == [True, True, False]


def test_a_key_speaks_for_its_name_unless_others_are_said() -> None:
    token = new_token()
    assert (key(token, EVENTS).sources, key(token, EVENTS).own_source) == (("web",), "web")
    assert key(token, EVENTS).speaks_for("web") and not key(token, EVENTS).speaks_for("kiosk")
    relay = key(token, EVENTS, sources=("relay", "*"))
    assert relay.speaks_for("kiosk") and relay.own_source == "relay"
    assert key(token, ADMIN).speaks_for("kiosk") and key(token, ADMIN).own_source is None
    assert not key(token, RANK).speaks_for("web")


def test_a_key_ends_at_its_time() -> None:
    ending = key(new_token(), until_ms=100)
    assert [ending.is_over(at) for at in (99, 100)] == [False, True]
    assert not key(new_token()).is_over(10**15)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("", {}, "name"),
        ("a b", {}, "name"),
        ("x" * 65, {}, "name"),
        ("web", {"scopes": ()}, "scopes"),
        ("web", {"scopes": ("everything",)}, "everything"),
        ("web", {"per_s": -1.0}, "per_s"),
        ("web", {"per_s": float("nan")}, "per_s"),
    ],
)
def test_what_is_wrong_with_a_key_is_named(name: str, options: dict[str, object], said: str) -> None:
    asked = {"scopes": (RANK,), **options}
    with pytest.raises(ValueError, match=said):
        new_key(new_token(), name, made_ms=1, **asked)  # type: ignore[arg-type]
