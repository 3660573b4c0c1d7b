"""What a step learns from, in parts: inputs of one shape, each with its loss.

*Positives* are events with negatives drawn for them; *impressions* are decisions and their rewards as `features.joiner`
joins them, looked at as they were when they were shown. Legend: B slates, K candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoder, Inputs, Request
from features.item_table import ItemTable
from features.joiner import Outcome
from features.schema import hash64
from features.state import unpack
from learners.losses import Gradient, ListwiseLoss, PointwiseLoss

F32 = NDArray[np.float32]
U64 = NDArray[np.uint64]


@dataclass(slots=True)
class Part:
    """Inputs, and what is learned from them."""

    inputs: Inputs
    loss: ListwiseLoss | PointwiseLoss
    is_known: NDArray[np.bool_]
    """[B, K] candidates that are items for sure; a drawn one may be made up."""
    n_examples: int
    sources: Sequence[str | None]
    """[B] who told of what was taken; None: nobody says, or several did."""
    people: U64
    """[B] hashes of those whom the slates were for."""
    scores: F32 = field(init=False)
    """[B, K] from before the step."""


def positives(inputs: Inputs, share: float, sources: Sequence[str | None], people: Sequence[int]) -> Part:
    """Slates whose first candidate is what was taken.

    Args:
        share: Weight of a slate.
        sources: [B] who told of each.
        people: [B] hashes of those who took.
    """
    is_positive = np.zeros(inputs.mask.shape, dtype=bool)
    is_positive[:, 0] = True
    return Part(inputs, ListwiseLoss(share), is_positive, len(is_positive), sources, np.array(people, np.uint64))


def impressions(
    outcomes: Sequence[Outcome], encoder: Encoder, table: ItemTable, shift: float, share: float, shown_at: Gradient
) -> Part:
    """What came of decisions.

    Args:
        shift, share, shown_at: See `PointwiseLoss`.
    """
    requests, dense = [], []
    place_BK = np.zeros((len(outcomes), max(len(outcome.places) for outcome in outcomes)), dtype=np.int64)
    reward_BK = np.zeros(place_BK.shape, dtype=np.float32)
    for b, (decision, state, places, _, rewards, _) in enumerate(outcomes):
        shown = [decision.items[place] for place in places]
        requests.append(Request(unpack(state, encoder.schema), decision.context, decision.ts_ms, shown))
        rows = np.frombuffer(decision.inputs, np.float16).reshape(len(decision.items), -1)
        dense.append(rows[list(places)].astype(np.float32))
        place_BK[b, : len(places)], reward_BK[b, : len(places)] = places, rewards
    is_shown_B = np.array([outcome.is_shown for outcome in outcomes])
    inputs = encoder.recall(table, requests, dense)
    loss = PointwiseLoss(share, place_BK, is_shown_B, reward_BK, shift, shown_at)
    n_shown, sources = int(inputs.mask[is_shown_B].sum()), [outcome.source for outcome in outcomes]
    people = np.array([hash64(outcome.decision.user) for outcome in outcomes], dtype=np.uint64)
    return Part(inputs, loss, inputs.mask, n_shown, sources, people)


def without(part: Part, is_kept_B: NDArray[np.bool_]) -> Part:
    """Some slates of a part, not yet scored."""
    inputs = Inputs(*(getattr(part.inputs, one.name)[is_kept_B] for one in fields(Inputs)))
    loss, n_examples = part.loss, int(np.count_nonzero(is_kept_B))
    if isinstance(loss, ListwiseLoss):
        kept: ListwiseLoss | PointwiseLoss = ListwiseLoss(loss.share)
    else:
        is_shown_B = loss.is_shown[is_kept_B]
        n_examples = int(inputs.mask[is_shown_B].sum())
        kept = PointwiseLoss(
            *(loss.share, loss.place[is_kept_B], is_shown_B, loss.reward[is_kept_B], loss.shift, loss.shown_at)
        )
    sources = [source for source, is_kept in zip(part.sources, is_kept_B, strict=True) if is_kept]
    return Part(inputs, kept, part.is_known[is_kept_B], n_examples, sources, part.people[is_kept_B])
