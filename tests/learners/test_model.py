"""Laws of the network: nothing about a slate's neighbours, padding or batch changes a score."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from features.encoding import Inputs, Request
from features.state import unpack
from learners.losses import ListwiseLoss
from learners.model import F32, ModelConfig, RankingModel, mean_of_present
from learners.online import OnlineLearner
from tests.learners.examples import CONFIG, SCHEMA, inputs_of, item_entry, learned, log, requests, stream


@pytest.fixture(scope="module")
def learner() -> OnlineLearner:
    """A learner with something to say: attributes too."""
    first = stream(400)
    entries = [item_entry(f"i{n}", first[0].ts_ms - 1, genre=[f"g{n % 3}"], price=n) for n in range(40)]
    return learned(entries + log(first))


def scored(learner: OnlineLearner, asked: Sequence[Request]) -> np.ndarray:
    return learner.model.score(learner.encoder.encode(learner.table, asked))


def test_untrained_scores_are_equal() -> None:
    fresh = OnlineLearner(SCHEMA, CONFIG)
    assert not fresh.model.score(inputs_of(fresh)).any()


def test_scores_are_finite_and_differ(learner: OnlineLearner) -> None:
    scores = scored(learner, requests(3, 20))
    assert np.isfinite(scores).all() and scores.std() > 0.01


def test_the_batch_does_not_change_a_score(learner: OnlineLearner) -> None:
    asked = requests(16, 20)
    together = scored(learner, asked)
    for b in (0, 7, 15):
        np.testing.assert_allclose(scored(learner, asked[b : b + 1])[0], together[b], atol=1e-5)


def test_the_slate_does_not_change_a_score(learner: OnlineLearner) -> None:
    (whole,) = requests(1, 30)
    scores = scored(learner, [whole])[0]
    some = [Request(whole.user, whole.context, whole.now_ms, whole.candidates[5:12])]
    np.testing.assert_allclose(scored(learner, some)[0], scores[5:12], atol=1e-5)


def test_padding_does_not_change_a_score(learner: OnlineLearner) -> None:
    long, short = requests(2, 30)
    cut = Request(short.user, short.context, short.now_ms, short.candidates[:4])
    padded = scored(learner, [long, cut])[1]
    np.testing.assert_allclose(padded[:4], scored(learner, [cut])[0], atol=1e-5)
    assert not padded[4:].any()


def test_more_absent_recent_items_and_attributes_do_not_change_a_score(learner: OnlineLearner) -> None:
    inputs = inputs_of(learner)
    cut = {field.name: getattr(inputs, field.name) for field in fields(Inputs)}
    n_recent = int((inputs.recent_key != 0).sum(axis=1).max())
    for name in ("recent_key", "recent_type", "recent_age"):
        cut[name] = cut[name][:, :n_recent]
    attribute_key = np.concatenate([inputs.attribute_key, np.zeros_like(inputs.attribute_key)], axis=2)
    changed = Inputs(**{**cut, "attribute_key": attribute_key})
    np.testing.assert_allclose(learner.model.score(changed), learner.model.score(inputs), atol=1e-5)


def test_scoring_changes_nothing(learner: OnlineLearner) -> None:
    inputs = inputs_of(learner)
    before, n_rows = learner.model.flat.clone(), len(learner.model.tables["item"])
    first, second = learner.model.score(inputs), learner.model.score(inputs)
    assert (first == second).all() and bool((learner.model.flat == before).all())
    assert len(learner.model.tables["item"]) == n_rows


def test_order_of_candidates_only_orders_the_scores(learner: OnlineLearner) -> None:
    (request,) = requests(1, 20)
    turned = Request(request.user, request.context, request.now_ms, request.candidates[::-1])
    np.testing.assert_allclose(scored(learner, [turned])[0][::-1], scored(learner, [request])[0], atol=1e-5)


def test_the_same_seed_gives_the_same_weights_whatever_the_global_state() -> None:
    one, other = RankingModel(SCHEMA, ModelConfig(seed=5)), RankingModel(SCHEMA, ModelConfig(seed=5))
    assert bool((one.flat == other.flat).all())
    assert not bool((one.flat == RankingModel(SCHEMA, ModelConfig(seed=6)).flat).all())


def test_a_mean_is_over_present_keys_alone_and_zero_without_any() -> None:
    values = torch.arange(12.0).reshape(4, 3).requires_grad_()
    keys = np.array([[[5, 0, 7], [0, 0, 0]], [[9, 9, 0], [1, 2, 3]]], dtype=np.uint64)
    places = torch.tensor([[[1, 0, 2], [0, 0, 0]], [[3, 3, 0], [0, 1, 2]]])
    found = mean_of_present(values, places, keys)
    expected = torch.stack([(values[1] + values[2]) / 2, torch.zeros(3), values[3], values[:3].mean(dim=0)])
    torch.testing.assert_close(found, expected.reshape(2, 2, 3))
    found.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(
        values.grad, torch.tensor([1 / 3, 1 / 2 + 1 / 3, 1 / 2 + 1 / 3, 1.0])[:, None].expand(4, 3)
    )


def test_without_any_keys_to_have_means_are_zero() -> None:
    values = torch.ones(4, 3).requires_grad_()
    found = mean_of_present(values, torch.zeros(2, 5, 0, dtype=torch.int64), np.zeros((2, 5, 0), dtype=np.uint64))
    torch.testing.assert_close(found, torch.zeros(2, 5, 3))


def test_a_schema_without_attributes_and_context_is_learned_and_scored() -> None:
    bare = replace(SCHEMA, attributes=(), context=(), counters=SCHEMA.counters[:1])
    bare_learner = learned(log(stream(200), bare), OnlineLearner(bare, CONFIG))
    assert bare_learner.n_examples == 200 and bare_learner.n_skipped == 0
    asked = Request(unpack(b"", bare), {}, stream(200)[-1].ts_ms, ["i1", "i2", "nobody"])
    inputs = bare_learner.encoder.encode(bare_learner.table, [asked])
    assert np.isfinite(bare_learner.model.score(inputs)).all()


def test_the_gate_is_learned_and_weighs_what_is_seen_of_candidates(learner: OnlineLearner) -> None:
    inputs, gate = inputs_of(learner), learner.model.gate.data
    before, learned_gate = learner.model.score(inputs), gate.clone()
    gate.zero_()
    open_gate = learner.model.score(inputs)
    gate.copy_(learned_gate)
    assert np.abs(before - open_gate).max() > 1e-3
    assert (learner.model.score(inputs) == before).all()


def in_tensors(model: RankingModel, inputs: Inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Scores by `forward`, and the tables' rows as leaves."""
    values = {
        name: torch.from_numpy(table.weight[: len(table)].copy()).requires_grad_()
        for name, table in model.tables.items()
    }
    return model(inputs, model.embed(inputs, values, model.rows_of(inputs))), values


def awkward(learner: OnlineLearner, n_requests: int, n_candidates: int) -> Inputs:
    """Inputs with padding (if there is more than one candidate), two types of events, and somebody without a past."""
    inputs = inputs_of(learner, n_requests, n_candidates)
    inputs.mask[-1, -1:] = n_candidates == 1
    inputs.recent_key[0] = 0
    inputs.recent_type[:, 1] *= 2
    return inputs


def test_compiled_scoring_is_the_networks_forward(learner: OnlineLearner) -> None:
    for n_requests, n_candidates in ((1, 1), (3, 10), (7, 33)):
        inputs, model = awkward(learner, n_requests, n_candidates), learner.model
        expected = in_tensors(model, inputs)[0].detach().numpy()
        assert n_candidates == 1 or np.ptp(expected) > 0.01
        np.testing.assert_allclose(model.score(inputs), expected, atol=1e-5, rtol=0)


def test_compiled_gradients_are_those_of_the_networks_forward(learner: OnlineLearner) -> None:
    inputs, model = awkward(learner, 7, 33), learner._trained
    named, loss = model.look_up(inputs), ListwiseLoss(1.0 / 7)
    model.flat_gradient.zero_()
    scores = model.learn_from(inputs, named, loss)
    found = model.flat_gradient.clone()

    model.flat_gradient.zero_()
    expected, values = in_tensors(model, inputs)
    masked = expected.masked_fill(~torch.from_numpy(inputs.mask), -torch.inf)
    mean = torch.nn.functional.cross_entropy(masked, torch.zeros(7, dtype=torch.int64))
    mean.backward()  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(scores, expected.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(loss.losses.mean(), mean.item(), rtol=1e-5)
    for name, parameter in model.named_parameters():
        at = parameter.grad.data_ptr() - model.flat_gradient.data_ptr()
        part = found[at // 4 : at // 4 + parameter.numel()].view(parameter.shape)
        # A softmax does not see what is added to all scores, and knows of no places.
        assert name in ("bias", "shown_at") or parameter.grad.abs().max() > 1e-4, name
        torch.testing.assert_close(part, parameter.grad, rtol=1e-3, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
    for name, part in named.items():
        whole = np.zeros(values[name].shape, dtype=np.float32)
        whole[part.rows] = part.gradient
        np.testing.assert_allclose(whole, values[name].grad.numpy(), rtol=1e-3, atol=2e-6, err_msg=name)
        assert np.abs(whole).max() > 1e-4


class Crowded:
    """Stands for numpy: what is allocated lies close together, in an order that is drawn.

    The first round only finds out what is asked for; so the rounds have to ask for the same.
    """

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._memory = np.zeros(1 << 22, dtype=np.uint8)
        self._n_bytes: list[int] = []
        self._starts: Sequence[int] = []
        self._n_asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def begin_round(self) -> None:
        """Draw where everything lies."""
        order = self._rng.permutation(len(self._n_bytes))
        room = np.array(self._n_bytes, dtype=np.int64)[order] + 16 * self._rng.integers(1, 3, len(order))
        starts = np.empty_like(room)
        starts[order] = room.cumsum() - room
        self._starts, self._n_asked = starts.tolist(), 0

    def empty(self, shape: Any, dtype: Any = np.float64) -> np.ndarray:
        array = np.empty(shape, dtype)
        if not self._starts:
            self._n_bytes.append(-(-array.nbytes // 16) * 16)
            return array
        start, self._n_asked = self._starts[self._n_asked], self._n_asked + 1
        return self._memory[start : start + array.nbytes].view(dtype).reshape(array.shape)

    def copy(self, value: np.ndarray) -> np.ndarray:
        found = self.empty(value.shape, value.dtype)
        found[...] = value
        return found

    def zeros(self, shape: Any, dtype: Any = np.float64) -> np.ndarray:
        return self.copy(np.zeros(shape, dtype))

    def empty_like(self, value: np.ndarray) -> np.ndarray:
        return self.empty(value.shape, value.dtype)

    def zeros_like(self, value: np.ndarray) -> np.ndarray:
        return self.zeros(value.shape, value.dtype)


@pytest.mark.parametrize("shape", [(1, 1), (1, 10), (2, 5), (7, 33)])
def test_where_arrays_lie_in_memory_does_not_change_a_bit(shape: tuple[int, int], monkeypatch: Any) -> None:
    """The compiler makes two loops of one, and takes the slower one where an array lies right behind another."""
    schema, numpy = replace(SCHEMA, n_recent=40), Crowded()
    wide = learned(log(stream(100), schema), OnlineLearner(schema, replace(CONFIG, model=ModelConfig(n_hidden=32))))
    inputs, model, rng = awkward(wide, *shape), wide._trained, np.random.default_rng(1)
    for name, values in (("key", inputs.item_key), ("type", np.arange(1, 3)), ("age", np.linspace(0.1, 1.0))):
        recent = getattr(inputs, f"recent_{name}")
        recent[:] = rng.choice(values.ravel(), recent.shape)
    monkeypatch.setattr("learners.model.np", numpy)
    found = set()
    for _ in range(600):
        numpy.begin_round()
        moved = Inputs(**{field.name: numpy.copy(getattr(inputs, field.name)) for field in fields(Inputs)})
        named, before = model.look_up(moved), model.flat.clone()
        model.flat_gradient.zero_()
        scores = model.learn_from(moved, named, ListwiseLoss(1.0))
        model.observe(moved, 3)
        gradients = (model.flat_gradient.numpy(), *(part.gradient for part in named.values()))
        found.add(b"".join(array.tobytes() for array in (scores, model.flat.numpy(), *gradients)))
        model.flat.copy_(before)
    assert len(found) == 1


def test_what_only_compares_leaves_the_bias_alone(learner: OnlineLearner) -> None:
    """To the last bit: the sum of a softmax's gradient is rounding errors, which Adam would make whole steps of."""

    class Rates:
        is_relative = False

        def __call__(self, scores_BK: F32, mask_BK: NDArray[np.bool_], gradient_BK: F32) -> None:
            gradient_BK[:] = 0.5 * mask_BK

    inputs, model = awkward(learner, 7, 33), learner._trained
    _, gradient = model.arrays_of("bias")
    gradient[:] = 0.0
    model.learn_from(inputs, model.look_up(inputs), ListwiseLoss(1.0))
    assert gradient == 0.0
    model.learn_from(inputs, model.look_up(inputs), Rates())
    assert gradient == 0.5 * inputs.mask.sum()


def test_statistics_are_those_of_what_was_seen() -> None:
    fresh = RankingModel(SCHEMA, ModelConfig())
    inputs = inputs_of(learned(log(stream(200))), 5, 20)
    inputs.mask[:, 15:] = False
    fresh.observe(inputs, 0)
    real = inputs.dense[:, :15].reshape(75, -1)
    np.testing.assert_allclose(fresh.dense_mean, real.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fresh.dense_variance, real.var(axis=0), rtol=1e-4, atol=1e-6)
    inputs.user_dense += 1.0
    fresh.observe(inputs, 1)
    np.testing.assert_allclose(fresh.user_mean, inputs.user_dense.mean(axis=0) - 0.5, rtol=1e-3, atol=1e-5)
    # Two batches, half a unit to each side of their mean.
    np.testing.assert_allclose(fresh.user_variance, inputs.user_dense.var(axis=0) + 0.25, rtol=1e-3, atol=1e-5)


def test_what_serves_is_a_running_mean_of_what_is_trained() -> None:
    learner = learned(log(stream(600)))
    served, trained = learner.model.flat, learner._trained.flat
    assert 0.0 < float((served - trained).abs().max()) < 0.5
    assert learner.model.tables is not None
    assert all(learner.model.tables[name] is table for name, table in learner._trained.tables.items())
