"""Losses over slates. Legend: B requests, K candidates."""

import torch
from torch import Tensor


def slate_log_loss(scores_BK: Tensor, positive_BK: Tensor, *, mask_BK: Tensor) -> Tensor:
    """Cross entropy of each request between its positives and the softmax of its scores.

    loss_b = -sum_k y_bk log softmax(s_b)_k / sum_k y_bk

    Args:
        positive_BK: Weight of each candidate as an answer, usually one-hot; counted only where `mask_BK` holds.
        mask_BK: True where the slot holds a real candidate; padded slots add nothing.
    Returns:
        Float32 [B]; exactly 0 for a request without a positive.
    Source: Cao et al., ICML 2007 (ListNet), top-one probabilities.
    """
    log_softmax_BK = torch.log_softmax(scores_BK.masked_fill(~mask_BK, -torch.inf), dim=1)
    wanted_BK = positive_BK * mask_BK
    # An empty slate gives NaN and a padded slot -inf: replaced before they meet a zero weight.
    log_softmax_BK = torch.where(wanted_BK > 0, log_softmax_BK, 0.0)
    return -(wanted_BK * log_softmax_BK).sum(dim=1) / wanted_BK.sum(dim=1).clamp(min=1e-9)


def listwise_softmax_loss(scores_BK: Tensor, positive_BK: Tensor, *, mask_BK: Tensor) -> Tensor:
    """Mean of `slate_log_loss` over the requests that have a positive.

    Returns:
        Scalar float32; exactly 0 when no request has a positive, never NaN for finite scores.
    """
    losses_B = slate_log_loss(scores_BK, positive_BK, mask_BK=mask_BK)
    n_positive = ((positive_BK * mask_BK).sum(dim=1) > 0).sum()
    return losses_B.sum() / n_positive.clamp(min=1)
