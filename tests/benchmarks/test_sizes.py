"""What is measured is what it says: full people, full rows, decisions of the Ranker's length."""

import numpy as np
import pytest

from benchmarks.sizes import ID_BYTES, N_SHOWN, example_decision, full_row, full_state, identifier, sizes_of
from deployments.ranking import MAX_LOGGED
from features.encoding import Encoder
from features.item_table import ItemTable
from features.schema import Schema
from features.state import unpack


@pytest.fixture(scope="module")
def schema() -> Schema:
    return Schema()


def test_an_id_has_the_length_it_is_said_to_have():
    assert len(identifier(0)) == len(identifier(10**15)) == ID_BYTES


def test_a_full_state_remembers_as_many_distinct_items_as_there_is_room_for(schema: Schema):
    state = unpack(full_state(schema), schema)
    assert len({item for item, _, _ in state.recent}) == schema.n_recent
    assert set(state.context) == set(schema.context)


def test_a_full_row_has_every_successor_and_attribute(schema: Schema):
    table = ItemTable(schema)
    (row,) = table.load([identifier(0)], [full_row(schema)])
    assert np.count_nonzero(table.successor_key[row]) == schema.n_successors
    assert set(table.attributes[row]) == {attribute.name for attribute in schema.item_attributes}


def test_a_decision_is_logged_as_the_ranker_logs_it(schema: Schema):
    decision = example_decision(schema)
    assert len(decision.items) == N_SHOWN == MAX_LOGGED
    assert len(decision.inputs) == 2 * N_SHOWN * len(Encoder(schema).dense_names)


def test_sizes_follow_the_schema(schema: Schema):
    """Each successor is 24 bytes of a row, each recent item its packed entry and two bytes for its length."""
    sizes, smaller = sizes_of(schema), sizes_of(Schema(n_successors=32, n_recent=16))
    assert sizes.row - smaller.row == sizes.row_in_memory - smaller.row_in_memory == 32 * 24
    assert sizes.state - smaller.state == 16 * (2 + 1 + 1 + ID_BYTES + 1 + 9)
    assert sizes.decision == smaller.decision
