"""The loss functions of AnglE (arXiv 2309.12871) as the authors' code (SeanLee97/AnglE) computes them."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, normalize, pad

__all__ = ["angle_loss", "contrastive_loss", "cosent_loss", "cosine_loss", "in_batch_negative_loss"]

_MASKED = -1e12


def cosine_loss(first: Tensor, second: Tensor, labels: Tensor, tau: float = 20.0) -> Tensor:
    """CoSENT on the cosines of pairs.

    Args:
        first: float [n, d].
        second: float [n, d].
        labels: [n], higher for more similar pairs.
        tau: factor of the cosines (an inverse temperature).

    Returns:
        A scalar: log(1 + sum of exp(s_a - s_b) over all a, b with label_a < label_b).
    """
    cosines = (normalize(first, dim=-1) * normalize(second, dim=-1)).sum(-1)
    return cosent_loss(tau * cosines, labels)


def angle_loss(first: Tensor, second: Tensor, labels: Tensor, tau: float = 20.0) -> Tensor:
    """CoSENT on the angle between pairs of vectors, each read as d / 2 complex numbers.

    The score of a pair is |cos + sin|, where cos is the cosine of the pair and
    sin = sum(im_u re_v - re_u im_v) / (|u| |v|): the normalised quotient of the two complex vectors, summed over its
    real and imaginary parts. An odd d is padded with a zero.

    Args:
        first: float [n, d], first half the real parts, second half the imaginary ones.
        second: float [n, d].
        labels: [n], higher for more similar pairs.
        tau: factor of the scores.

    Returns:
        A scalar, as :func:`cosine_loss` returns.
    """
    odd = first.shape[-1] % 2
    first_real, first_imaginary = pad(normalize(first, dim=-1), (0, odd)).chunk(2, dim=-1)
    second_real, second_imaginary = pad(normalize(second, dim=-1), (0, odd)).chunk(2, dim=-1)
    cosines = (first_real * second_real + first_imaginary * second_imaginary).sum(-1)
    sines = (first_imaginary * second_real - first_real * second_imaginary).sum(-1)
    return cosent_loss(tau * (cosines + sines).abs(), labels)


def cosent_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """log(1 + sum of exp(score_a - score_b) over all a, b with label_a < label_b), in O(n log n).

    Args:
        scores: float [n].
        labels: [n].

    Returns:
        A scalar; 0 where all labels are equal.
    """
    order = labels.argsort()
    scores, labels = scores[order], labels[order].contiguous()
    empty = scores.new_full((1,), -torch.inf)
    # For each pair b the log of the sum of exp(score_a) over all pairs with a lower label, which come before it.
    sums = torch.cat([empty, scores.logcumsumexp(0)])[torch.searchsorted(labels, labels)]
    ranked = sums > -torch.inf
    return torch.cat([scores.new_zeros(1), sums[ranked] - scores[ranked]]).logsumexp(0)


def in_batch_negative_loss(first: Tensor, second: Tensor, labels: Tensor, tau: float = 20.0) -> Tensor:
    """Cross entropy of every text against its partner among all other texts of the batch.

    Labels are truncated to integers, as in the authors' code: a text with label 0 has no target but counts in the mean.
    With labels other than 0 and 1, texts of other pairs can become targets.

    Args:
        first: float [n, d].
        second: float [n, d].
        labels: [n], 1 for a positive pair.
        tau: factor of the cosines.

    Returns:
        A scalar, the mean over all 2 n texts.
    """
    vectors = normalize(torch.stack([first, second], dim=1).flatten(0, 1), dim=-1)
    whole = labels.int().repeat_interleave(2)
    place = torch.arange(len(vectors), device=vectors.device)
    partner = place + 1 - 2 * (place % 2)
    targets = (partner * whole)[:, None] == (place * whole)[None, :]
    targets &= (whole != 0)[:, None] & (whole != 0)[None, :]
    scores = tau * (vectors @ vectors.T)
    scores = scores.masked_fill(place[:, None] == place[None, :], tau * _MASKED)
    return -(targets * log_softmax(scores, dim=-1)).sum(-1).mean()


def contrastive_loss(queries: Tensor, candidates: Tensor, tau: float = 20.0, ignored: Tensor | None = None) -> Tensor:
    """Cross entropy of every query against its positive among all candidates (InfoNCE), in one direction.

    Args:
        queries: float [n, d].
        candidates: float [m, d], m >= n: the n positives in order, then negatives.
        tau: factor of the cosines.
        ignored: bool [n, m], candidates to leave out of a query's negatives.

    Returns:
        A scalar, the mean over the queries.
    """
    scores = tau * (normalize(queries, dim=-1) @ normalize(candidates, dim=-1).T)
    if ignored is not None:
        scores = scores.masked_fill(ignored, tau * _MASKED)
    return cross_entropy(scores, torch.arange(len(queries), device=queries.device))
