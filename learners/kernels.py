"""Compiled loops of the network, forward and backward, but for its matrix products, which BLAS does better.

`RankingModel.forward` is what these compute, and says why; a test holds them together, values and gradients. For one
request, forty operators cost five times their arithmetic, and that is what a lone request waits for; a batch is learned
from in half the time. What goes backward (`…_back`) adds to the gradients it is given, and computes again what is
cheaper to compute than to keep.

Compiled as `features.compiling` says.

Legend: B requests, K candidates, N keys or rows, M some of them, A keys of one mean, R recent items, F dense features,
U user features, D embedding, P features of a person, J vectors that candidates are compared with, H hidden, I inputs of
the first layer.
A *table* is (slots, old, weights), of which the first two are its index.
"""

from typing import Any, Final

import numpy as np

from features.compiling import ANY_ORDER, FUSED, compiled
from features.index import AHEAD, fetch_row, fetch_slot, find, place_of

LEAST: Final = np.float32(1e-9)
SMALL: Final = np.float32(1e-2)  # added to variances: what hardly ever varies is enlarged ten times at most


@compiled()
def row_of(table: Any, key: Any) -> Any:
    """Row of a key; 0 for an absent or unknown one."""
    slots, old, _ = table
    return find(slots, old, key)


@compiled(fastmath=FUSED)
def add_mean(table: Any, key_A: Any, out_D: Any) -> None:
    """Add the mean of the embeddings of the present keys; nothing where none is."""
    n_present = 0
    for a in range(len(key_A)):
        n_present += key_A[a] != 0
    for a in range(len(key_A)):
        if key_A[a] != 0:
            row, share = row_of(table, key_A[a]), np.float32(1.0) / np.float32(n_present)
            add_times(share, table[2][row], out_D)


@compiled(fastmath=FUSED)
def add_weighted(logit_R: Any, value_RD: Any, out_D: Any) -> None:
    """Add the mean of the values, weighted by the softmax of the logits."""
    highest, total = greatest(logit_R), np.float32(0.0)
    for r in range(len(logit_R)):
        total += np.exp(logit_R[r] - highest)
    for r in range(len(logit_R)):
        add_times(np.exp(logit_R[r] - highest) / total, value_RD[r], out_D)


@compiled(fastmath=FUSED)
def people(
    items: Any,
    contexts: Any,
    weights: Any,
    user_dense_BU: Any,
    recent_key_BR: Any,
    recent_type_BR: Any,
    recent_age_BR: Any,
    context_key_BC: Any,
    user_key_BA: Any,
    recent_BRD: Any,
    logit_BR: Any,
    person_BP: Any,
    query_BJD: Any,
    offset_BH: Any,
    gate_BI: Any,
) -> None:
    """What is the same for all candidates of a request.

    Args:
        items, contexts: Tables.
        weights: `place`, `kind`, `age`, `query`, `person`, `enter_bias`, `gate`, `user_mean`, and the scales of these.
        recent_BRD: Gets the embeddings of the recent items, as far as there are any.
        logit_BR: Gets the weights' logits of these.
        person_BP: Gets all that is known of the person and the moment.
        query_BJD: Gets the four vectors that candidates are compared with.
        offset_BH: Gets what the person adds to the first layer.
        gate_BI: Gets what the person weighs the inputs of the first layer with.
    """
    place_R, kind_T, age_1, query_PD, weight_PH, enter_bias_H, gate_PI, mean_U, scale_U = weights
    n_embedding = query_BJD.shape[2]
    for b in range(len(user_dense_BU)):
        person_P = person_BP[b]
        person_P[:] = 0.0
        n_recent = count(recent_key_BR[b])
        for r in range(n_recent):
            copy(items[2][row_of(items, recent_key_BR[b, r])], recent_BRD[b, r])
            logit_BR[b, r] = place_R[r] + kind_T[recent_type_BR[b, r]] + age_1[0] * recent_age_BR[b, r]
        if n_recent:
            add_weighted(logit_BR[b, :n_recent], recent_BRD[b], person_P[:n_embedding])
            copy(recent_BRD[b, 0], person_P[n_embedding : 2 * n_embedding])
        add_mean(contexts, context_key_BC[b], person_P[2 * n_embedding : 3 * n_embedding])
        add_mean(contexts, user_key_BA[b], person_P[3 * n_embedding : 4 * n_embedding])
        for u in range(len(mean_U)):
            person_P[4 * n_embedding + u] = (user_dense_BU[b, u] - mean_U[u]) * scale_U[u]
        for j in range(3):
            copy(person_P[j * n_embedding : (j + 1) * n_embedding], query_BJD[b, j])
        query_BJD[b, 3] = 0.0
        copy(enter_bias_H, offset_BH[b])
        gate_BI[b] = 1.0
        for p in range(len(person_P)):
            value = person_P[p]
            if value != 0.0:
                add_times(value, query_PD[p], query_BJD[b, 3])
                add_times(value, weight_PH[p], offset_BH[b])
                add_times(value, gate_PI[p], gate_BI[b])


@compiled(fastmath=FUSED)
def see(
    items: Any,
    attributes: Any,
    mean_F: Any,
    scale_F: Any,
    mask_BK: Any,
    dense_BKF: Any,
    item_key_BK: Any,
    attribute_key_BKA: Any,
    recent_key_BR: Any,
    recent_BRD: Any,
    logit_BR: Any,
    query_BJD: Any,
    gate_BI: Any,
    alike_BKR: Any,
    share_BKR: Any,
    out_BKI: Any,
) -> None:
    """The inputs of the first layer: standardised dense features, the candidate's embedding, and its likenesses; all
    weighed by the gate.

    Args:
        alike_BKR: Gets the likeness to each recent item.
        share_BKR: Gets the share of each in the likeness to the nearest.
    """
    n_dense, n_embedding = dense_BKF.shape[2], query_BJD.shape[2]
    start = n_dense + n_embedding
    for b in range(mask_BK.shape[0]):
        n_recent = count(recent_key_BR[b])
        for k in range(mask_BK.shape[1]):
            out_I = out_BKI[b, k]
            if not mask_BK[b, k]:
                out_I[:] = 0.0
                continue
            for f in range(n_dense):
                out_I[f] = (dense_BKF[b, k, f] - mean_F[f]) * scale_F[f]
            item_D = items[2][row_of(items, item_key_BK[b, k])]
            candidate_D = out_I[n_dense:start]
            copy(item_D, candidate_D)
            add_mean(attributes, attribute_key_BKA[b, k], candidate_D)
            for j in range(4):
                out_I[start + j] = dot(candidate_D, query_BJD[b, j])
            alike_R, share_R = alike_BKR[b, k], share_BKR[b, k]
            highest, whole = np.float32(-np.inf), np.float32(0.0)
            for r in range(n_recent):
                alike_R[r] = dot(item_D, recent_BRD[b, r])
                highest = max(highest, alike_R[r] + logit_BR[b, r])
            for r in range(n_recent):
                share_R[r] = np.exp(alike_R[r] + logit_BR[b, r] - highest)
                whole += share_R[r]
            for r in range(n_recent):
                share_R[r] /= whole
            out_I[start + 4] = dot(share_R[:n_recent], alike_R[:n_recent])
            for i in range(len(out_I)):
                out_I[i] *= gate_BI[b, i]


@compiled(fastmath=FUSED)
def enter(hidden_BKH: Any, offset_BH: Any) -> None:
    """Add what the person adds, then ReLU; in place."""
    for b in range(hidden_BKH.shape[0]):
        for k in range(hidden_BKH.shape[1]):
            for h in range(hidden_BKH.shape[2]):
                hidden_BKH[b, k, h] = max(hidden_BKH[b, k, h] + offset_BH[b, h], np.float32(0.0))


@compiled(fastmath=FUSED)
def leave(
    mask_BK: Any,
    hidden_BKH: Any,
    bias_H: Any,
    leave_H: Any,
    seen_BKI: Any,
    skip_I: Any,
    bias_1: Any,
    out_BK: Any,
) -> None:
    """ReLU of the second layer, the output, and the linear skip; 0 for padding."""
    for b in range(mask_BK.shape[0]):
        for k in range(mask_BK.shape[1]):
            out_BK[b, k] = np.float32(0.0)
            if mask_BK[b, k]:
                through = open_dot(hidden_BKH[b, k], bias_H, leave_H)
                out_BK[b, k] = bias_1[0] + through + dot(seen_BKI[b, k], skip_I)


@compiled(fastmath=ANY_ORDER)
def dot(one_D: Any, other_D: Any) -> Any:
    """Inner product."""
    total = np.float32(0.0)
    for d in range(len(one_D)):
        total += one_D[d] * other_D[d]
    return total


@compiled(fastmath=ANY_ORDER)
def open_dot(hidden_H: Any, bias_H: Any, weight_H: Any) -> Any:
    """Inner product of what a layer lets through, and weights."""
    total = np.float32(0.0)
    for h in range(len(hidden_H)):
        total += max(hidden_H[h] + bias_H[h], np.float32(0.0)) * weight_H[h]
    return total


@compiled(fastmath=FUSED)
def add_times(share: Any, value_D: Any, out_D: Any) -> None:
    """Add so many times some values."""
    for d in range(len(out_D)):
        out_D[d] += share * value_D[d]


@compiled()
def copy(value_N: Any, out_N: Any) -> None:
    """Copy values. numba's own assignment of arrays makes room for the case that they overlap."""
    for n in range(len(value_N)):
        out_N[n] = value_N[n]


@compiled()
def total(value_N: Any) -> Any:
    """The sum of some values."""
    found = np.float32(0.0)
    for n in range(len(value_N)):
        found += value_N[n]
    return found


@compiled()
def greatest(value_N: Any) -> Any:
    """The greatest of some values."""
    found = np.float32(-np.inf)
    for n in range(len(value_N)):
        found = max(found, value_N[n])
    return found


@compiled()
def count(key_R: Any) -> Any:
    """Number of present keys; they come first."""
    n = 0
    while n < len(key_R) and key_R[n] != 0:
        n += 1
    return n


@compiled()
def collect(table: Any, key_N: Any, slots: Any, row_N: Any, n_rows: int) -> Any:
    """Enter keys into the index of a batch, which counts its own rows, and note which rows of the table these are.

    Args:
        slots: Index of the batch. Its row 0 is the fallback, as the table's is.
        row_N: Gets the table's rows by those of the batch; begins with `n_rows` of them.
    Returns:
        Number of rows now.
    """
    for n in range(len(key_N)):
        if n + AHEAD < len(key_N):
            fetch_slot(table[0], key_N[n + AHEAD])
        if key_N[n] == 0:
            continue
        at = place_of(slots, key_N[n])
        if slots[at, 0] == 0:
            slots[at, 0] = key_N[n]
            row = row_of(table, key_N[n])
            if row != 0:
                row_N[n_rows] = row
                slots[at, 1] = n_rows
                n_rows += 1
    return n_rows


@compiled()
def gather(value_ND: Any, row_M: Any, out_MD: Any) -> None:
    """Copy rows. Those of a large table are asked for ahead: waiting for each in turn takes three times as long."""
    for m in range(len(row_M)):
        if m + AHEAD < len(row_M):
            fetch_row(value_ND, row_M[m + AHEAD])
        copy(value_ND[row_M[m]], out_MD[m])


@compiled(fastmath=FUSED)
def moments(value_BKF: Any, mask_BK: Any, around_F: Any, mean_F: Any, variance_F: Any) -> None:
    """Mean and variance of each feature over the candidates that the mask names.

    Args:
        around_F: About the means, for exactness.
    """
    n, sum_F, square_F = 0, mean_F, variance_F
    sum_F[:], square_F[:] = np.float32(0.0), np.float32(0.0)
    for b in range(mask_BK.shape[0]):
        for k in range(mask_BK.shape[1]):
            if mask_BK[b, k]:
                n += 1
                value_F = value_BKF[b, k]
                for f in range(len(sum_F)):
                    off = value_F[f] - around_F[f]
                    sum_F[f] += off
                    square_F[f] += off * off
    for f in range(len(sum_F)):
        off = sum_F[f] / np.float32(max(n, 1))
        mean_F[f] = around_F[f] + off
        variance_F[f] = max(square_F[f] / np.float32(max(n, 1)) - off * off, np.float32(0.0))


@compiled()
def listwise(score_BK: Any, mask_BK: Any, share: Any, out_B: Any, gradient_BK: Any) -> None:
    """Log loss of candidate 0 under the softmax of each slate, and `share` times its gradient."""
    for b in range(len(score_BK)):
        highest = np.float32(-np.inf)
        for k in range(score_BK.shape[1]):
            if mask_BK[b, k]:
                highest = max(highest, score_BK[b, k])
        total = np.float32(0.0)
        for k in range(score_BK.shape[1]):
            gradient_BK[b, k] = np.exp(score_BK[b, k] - highest) if mask_BK[b, k] else np.float32(0.0)
            total += gradient_BK[b, k]
        for k in range(score_BK.shape[1]):
            gradient_BK[b, k] *= share / total
        gradient_BK[b, 0] -= share
        out_B[b] = np.log(total) + highest - score_BK[b, 0]


@compiled()
def pointwise(
    score_BK: Any,
    mask_BK: Any,
    place_BK: Any,
    is_shown_B: Any,
    reward_BK: Any,
    shift: Any,
    place_logit_J: Any,
    share: Any,
    rate_BK: Any,
    gradient_BK: Any,
    dplace_J: Any,
) -> None:
    """`share` times the gradient of impressions, rate - reward, and of late rewards, their part by rates - reward.

    Args:
        place_BK: At which place each candidate was shown.
        is_shown_B: Whether a slate counts as shown.
        reward_BK: What is added to the reward of each of its items.
        shift: Added to every logit.
        place_logit_J: And what a place adds; places beyond the last count as the last.
        rate_BK: Gets the predicted rate of reward; 0 where nothing counts as shown.
    """
    for b in range(len(score_BK)):
        for k in range(score_BK.shape[1]):
            rate_BK[b, k] = gradient_BK[b, k] = np.float32(0.0)
            if mask_BK[b, k]:
                place = min(place_BK[b, k], len(place_logit_J) - 1)
                logit = score_BK[b, k] + shift + place_logit_J[place]
                rate_BK[b, k] = np.float32(1.0) / (np.float32(1.0) + np.exp(-logit))
        pull = np.float32(1.0)
        if not is_shown_B[b]:
            pull = total(reward_BK[b]) / max(total(rate_BK[b]), LEAST)
        for k in range(score_BK.shape[1]):
            if mask_BK[b, k]:
                gradient_BK[b, k] = share * (pull * rate_BK[b, k] - reward_BK[b, k])
                place = min(place_BK[b, k], len(place_logit_J) - 1)
                if place > 0:
                    dplace_J[place] += gradient_BK[b, k]
                if not is_shown_B[b]:
                    rate_BK[b, k] = np.float32(0.0)


@compiled(fastmath=FUSED)
def leave_back(
    mask_BK: Any, hidden_BKH: Any, bias_H: Any, leave_H1: Any, dscore_BK: Any, dbias_H: Any, dleave_H1: Any
) -> None:
    """Of `leave` but for the skip; what came from the second product becomes its gradient."""
    for b in range(hidden_BKH.shape[0]):
        for k in range(hidden_BKH.shape[1]):
            dscore, hidden_H = dscore_BK[b, k], hidden_BKH[b, k]
            if not mask_BK[b, k]:
                hidden_H[:] = np.float32(0.0)
                continue
            for h in range(len(bias_H)):
                value = max(hidden_H[h] + bias_H[h], np.float32(0.0))
                dleave_H1[h, 0] += dscore * value
                hidden_H[h] = dscore * leave_H1[h, 0] if value > np.float32(0.0) else np.float32(0.0)
                dbias_H[h] += hidden_H[h]


@compiled(fastmath=FUSED)
def enter_back(hidden_BKH: Any, dhidden_BKH: Any, doffset_BH: Any) -> None:
    """Of `enter`: closes the gradient where the layer was closed, in place, and adds it up over candidates."""
    for b in range(hidden_BKH.shape[0]):
        doffset_H = doffset_BH[b]
        for k in range(hidden_BKH.shape[1]):
            hidden_H, dhidden_H = hidden_BKH[b, k], dhidden_BKH[b, k]
            for h in range(len(hidden_H)):
                dhidden_H[h] = dhidden_H[h] if hidden_H[h] > np.float32(0.0) else np.float32(0.0)
                doffset_H[h] += dhidden_H[h]


@compiled(fastmath=FUSED)
def see_back(
    items: Any,
    attributes: Any,
    mask_BK: Any,
    item_key_BK: Any,
    attribute_key_BKA: Any,
    recent_key_BR: Any,
    recent_BRD: Any,
    query_BJD: Any,
    gate_BI: Any,
    alike_BKR: Any,
    share_BKR: Any,
    seen_BKI: Any,
    dseen_BKI: Any,
    ditems: Any,
    dattributes: Any,
    drecent_BRD: Any,
    dlogit_BR: Any,
    dquery_BJD: Any,
    dgate_BI: Any,
    candidate_D: Any,
) -> None:
    """Of `see`.

    Args:
        alike_BKR, share_BKR, seen_BKI: What `see` gave.
        dseen_BKI: Its gradient, which is used up.
        ditems, dattributes: Get the gradients of the tables' rows.
        candidate_D: Used on the way.
    """
    n_embedding, n_inputs = query_BJD.shape[2], seen_BKI.shape[2]
    start = n_inputs - n_embedding - 5
    at_dots = n_inputs - 5
    for b in range(mask_BK.shape[0]):
        n_recent = count(recent_key_BR[b])
        for k in range(mask_BK.shape[1]):
            if not mask_BK[b, k]:
                continue
            dseen_I, seen_I, gate_I = dseen_BKI[b, k], seen_BKI[b, k], gate_BI[b]
            for i in range(n_inputs):
                # A gate that is closed to the last bit learns nothing from this slate.
                dgate_BI[b, i] += dseen_I[i] * seen_I[i] / gate_I[i] if gate_I[i] != 0.0 else np.float32(0.0)
                dseen_I[i] *= gate_I[i]
            row = row_of(items, item_key_BK[b, k])
            item_D, ditem_D = items[2][row], ditems[row]
            copy(item_D, candidate_D)
            add_mean(attributes, attribute_key_BKA[b, k], candidate_D)
            dcandidate_D = dseen_I[start:at_dots]
            for j in range(4):
                add_times(dseen_I[at_dots + j], query_BJD[b, j], dcandidate_D)
                add_times(dseen_I[at_dots + j], candidate_D, dquery_BJD[b, j])
            add_times(np.float32(1.0), dcandidate_D, ditem_D)
            add_mean_back(attributes, attribute_key_BKA[b, k], dcandidate_D, dattributes)
            alike_R, share_R = alike_BKR[b, k], share_BKR[b, k]
            nearest = dot(share_R[:n_recent], alike_R[:n_recent])
            for r in range(n_recent):
                along = dseen_I[at_dots + 4] * share_R[r]
                shift = along * (alike_R[r] - nearest)
                dlogit_BR[b, r] += shift
                add_times(along + shift, recent_BRD[b, r], ditem_D)
                add_times(along + shift, item_D, drecent_BRD[b, r])


@compiled(fastmath=FUSED)
def people_back(
    items: Any,
    contexts: Any,
    recent_key_BR: Any,
    recent_type_BR: Any,
    recent_age_BR: Any,
    context_key_BC: Any,
    user_key_BA: Any,
    recent_BRD: Any,
    logit_BR: Any,
    dperson_BP: Any,
    drecent_BRD: Any,
    dlogit_BR: Any,
    ditems: Any,
    dcontexts: Any,
    dplace_R: Any,
    dkind_T: Any,
    dage_1: Any,
    scratch: Any,
) -> None:
    """Of `people` but for its matrices: from the person's gradient to what the person is made of.

    Args:
        drecent_BRD: What comes from `see`; is used up.
        scratch: Used on the way.
    """
    n_embedding = recent_BRD.shape[2]
    weight_R, along_R = scratch
    for b in range(len(dperson_BP)):
        dpooled_D, dlast_D = dperson_BP[b, :n_embedding], dperson_BP[b, n_embedding : 2 * n_embedding]
        n_recent = count(recent_key_BR[b])
        if n_recent:
            highest, total, mean = greatest(logit_BR[b, :n_recent]), np.float32(0.0), np.float32(0.0)
            for r in range(n_recent):
                weight_R[r] = np.exp(logit_BR[b, r] - highest)
                total += weight_R[r]
            for r in range(n_recent):
                weight_R[r] /= total
                along_R[r] = dot(dpooled_D, recent_BRD[b, r])
                mean += weight_R[r] * along_R[r]
            add_times(np.float32(1.0), dlast_D, drecent_BRD[b, 0])
            for r in range(n_recent):
                dlogit = dlogit_BR[b, r] + weight_R[r] * (along_R[r] - mean)
                dplace_R[r] += dlogit
                dkind_T[recent_type_BR[b, r]] += dlogit
                dage_1[0] += dlogit * recent_age_BR[b, r]
                add_times(weight_R[r], dpooled_D, drecent_BRD[b, r])
                add_times(np.float32(1.0), drecent_BRD[b, r], ditems[row_of(items, recent_key_BR[b, r])])
        add_mean_back(contexts, context_key_BC[b], dperson_BP[b, 2 * n_embedding : 3 * n_embedding], dcontexts)
        add_mean_back(contexts, user_key_BA[b], dperson_BP[b, 3 * n_embedding : 4 * n_embedding], dcontexts)


@compiled(fastmath=FUSED)
def add_mean_back(table: Any, key_A: Any, dout_D: Any, dtable: Any) -> None:
    """Of `add_mean`."""
    n_present = 0
    for a in range(len(key_A)):
        n_present += key_A[a] != 0
    for a in range(len(key_A)):
        if key_A[a] != 0:
            add_times(np.float32(1.0) / np.float32(n_present), dout_D, dtable[row_of(table, key_A[a])])
