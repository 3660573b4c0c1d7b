"""After every fault, and many of them: nobody was left without an answer, and every event is learned once, to the bit.

The faults are planned from a seed, which is printed; `HEADRACE_CHAOS_SEED=1234 make chaos` plans the same again.
"""

from collections import Counter

import pytest

from tests.chaos import laws
from tests.chaos.conftest import LAST, Aftermath
from tests.chaos.load import quantiles_ms
from tests.cluster.conftest import Tell
from tests.learners.comparing import differences

FAILED_SHARE = 0.001


class Laws:
    """What holds, however many faults there were."""

    n_faults: int

    def test_ranks_hardly_ever_fail_and_only_when_a_replica_that_ranks_is_struck(
        self, aftermath: Aftermath, tell: Tell
    ) -> None:
        ranks = aftermath.load.ranks
        failed = [rank for rank in ranks if rank.is_failed]
        n_degraded = sum(bool(rank.degraded) for rank in ranks)
        tell("faults", f"{len(aftermath.incidents)} in {aftermath.took_s:.0f} s, seed {aftermath.seed}")
        tell("ranks", f"{len(ranks)}, {len(failed)} failed, {n_degraded} degraded; {quantiles_ms(ranks)}")
        tell("failed ranks", Counter(rank.outcome for rank in failed))
        assert len(failed) <= FAILED_SHARE * len(ranks)
        assert laws.unexcused(ranks, aftermath.incidents) == []

    def test_every_event_that_was_sent_is_acknowledged_and_in_the_log_once(
        self, aftermath: Aftermath, tell: Tell
    ) -> None:
        load, found = aftermath.load, laws.ids_in(aftermath.entries)
        n_again = sum(load.sent.values()) - len(load.sent)
        tell("events", f"{len(load.sent)}, {n_again} of them sent again; posts: {quantiles_ms(load.posts)}")
        tell("posts", Counter(post.outcome for post in load.posts))
        assert set(load.acknowledged) == set(load.sent)
        assert set(found) == {*load.sent, LAST}
        assert set(found.values()) == {1}

    def test_every_event_is_learned_once_and_the_weights_are_those_of_an_undisturbed_reader(
        self, aftermath: Aftermath, tell: Tell
    ) -> None:
        full, config = aftermath.full, aftermath.config
        reread = laws.reread(aftermath.entries, full, config.schema, config.learner)
        tell("learned", f"{full.progress.n_events} events, {full.progress.n_examples} examples, version {full.version}")
        assert full.progress.n_events == len(aftermath.load.sent) + 1
        assert differences(full, reread) == []

    def test_no_version_was_gone_back_from(self, aftermath: Aftermath, tell: Tell) -> None:
        for line in aftermath.history:
            if line["what"] != "published":
                tell(line["what"], f"{line['first']} to {line['last']}: {line['why']}")
        assert laws.went_astray(aftermath.history) == []


@pytest.mark.chaos
@pytest.mark.timeout(300)
class TestAFewFaults(Laws):
    """Of the riskiest kinds."""

    n_faults = 6


@pytest.mark.storm
@pytest.mark.timeout(300)
class TestManyFaults(Laws):
    """Of every kind."""

    n_faults = 30
