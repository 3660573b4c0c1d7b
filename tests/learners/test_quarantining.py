"""Who was told is put in quarantine, once the store is there, and is judged anew when released."""

from collections.abc import Mapping

import numpy as np
import pytest

from features.errors import StoreUnavailable
from features.memory_store import MemoryStore
from features.sources import Quarantine
from learners.agreement import Agreement, AgreementConfig
from learners.quarantining import Quarantining
from tests.learners.examples import SCHEMA


class Away(MemoryStore):
    """A store that may be away."""

    is_away = False

    async def quarantined(self) -> dict[str, Quarantine]:
        """As it says."""
        if self.is_away:
            raise StoreUnavailable("away")
        return await super().quarantined()

    async def quarantine(self, source: str, quarantine: Quarantine) -> bool:
        """As it says."""
        if self.is_away:
            raise StoreUnavailable("away")
        return await super().quarantine(source, quarantine)


def live(agreement: Agreement, means: Mapping[str, float], n: int = 300) -> None:
    """Batches with a slate of each source."""
    for _ in range(n):
        agreement.add(list(means), np.array(list(means.values())))


BAD = {"a": 0.7, "b": 0.7, "bad": 0.2}


async def test_who_was_told_is_put_there_with_the_reason_and_judged_anew_when_released() -> None:
    agreement, store = Agreement(AgreementConfig()), Away(SCHEMA)
    quarantining = Quarantining(agreement, store, is_wanted=True, trusted=())
    live(agreement, BAD)
    await quarantining.look(17)
    there = await store.quarantined()
    assert list(there) == ["bad"] and (there["bad"].who, there["bad"].since_ms) == ("judge", 17)
    assert "agreement 0.20" in there["bad"].why
    live(agreement, BAD)
    await quarantining.look(18)
    assert await store.quarantined() == there and "bad" in agreement.figures()
    await store.release("bad")
    await quarantining.look(19)
    assert "bad" not in agreement.figures() and await store.quarantined() == {}
    live(agreement, {"a": 0.7, "b": 0.7, "bad": 0.7})
    await quarantining.look(20)
    assert await store.quarantined() == {}
    live(agreement, BAD)
    await quarantining.look(21)
    assert set(await store.quarantined()) == {"bad"}


async def test_a_store_that_is_away_loses_nothing() -> None:
    agreement, store = Agreement(AgreementConfig()), Away(SCHEMA)
    quarantining = Quarantining(agreement, store, is_wanted=True, trusted=())
    live(agreement, BAD)
    store.is_away = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await quarantining.look(17)
    store.is_away = False
    await quarantining.look(18)
    assert set(await store.quarantined()) == {"bad"}


@pytest.mark.parametrize(("is_wanted", "trusted"), [(False, ()), (True, frozenset({"bad"}))])
async def test_neither_who_is_trusted_nor_anybody_if_nobody_wants_it_is_put_there(
    is_wanted: bool, trusted: frozenset[str]
) -> None:
    agreement, store = Agreement(AgreementConfig()), MemoryStore(SCHEMA)
    quarantining = Quarantining(agreement, store, is_wanted=is_wanted, trusted=trusted)
    live(agreement, BAD)
    await quarantining.look(17)
    assert await store.quarantined() == {}


async def test_who_was_put_there_by_somebody_else_is_judged_anew_as_well() -> None:
    agreement, store = Agreement(AgreementConfig()), MemoryStore(SCHEMA)
    quarantining = Quarantining(agreement, store, is_wanted=True, trusted=())
    live(agreement, {"web": 0.7}, 3)
    await store.quarantine("web", Quarantine("bob", "", 5))
    await quarantining.look(17)
    assert "web" in agreement.figures()
    await store.release("web")
    await quarantining.look(18)
    assert agreement.figures() == {}
