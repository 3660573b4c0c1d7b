"""Several learners in one process, meeting as they would on as many cores: for evaluation and tests."""

from features.events import Entry
from features.schema import Schema
from learners.model import RankingModel
from learners.online import LearnerConfig, OnlineLearner
from learners.rounds import RoundClock


class Team:
    """`read` and `close_tick` as one learner; `learners` are equal after every round."""

    def __init__(self, schema: Schema, config: LearnerConfig) -> None:
        self.learners = [OnlineLearner(schema, config, seat) for seat in range(config.rounds.n_learners)]
        self.n_rounds = 0
        self._clock = RoundClock(config.rounds)

    @property
    def model(self) -> RankingModel:
        """The weights of the last round."""
        return self.learners[0].model

    @property
    def metrics(self) -> dict[str, float]:
        """Of the first learner, on the people of its own partitions."""
        return self.learners[0].metrics

    def read(self, entry: Entry) -> None:
        """Let everybody take in the next entry."""
        self.close_tick(entry.id.ms)
        for learner in self.learners:
            learner.read(entry)
        self._clock.count(entry.id.ms)

    def close_tick(self, end_ms: int) -> None:
        """Note that no entry before `end_ms` is still to come; ends the round if that is past it."""
        if not self._clock.is_over(end_ms):
            return
        shares = [learner.end_round(self._clock.end_ms) for learner in self.learners]
        for learner in self.learners:
            learner.lay(shares)
        self._clock.start()
        self.n_rounds += 1
