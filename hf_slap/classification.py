"""What only classification needs: targets, mixup, the loss, and the linear probe."""

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn


def read_labels(corpus: Dataset, separator: str | None) -> list[list[str]]:
    """The labels of each clip of a corpus that was opened with its labels as captions."""
    if separator is None:
        return list(corpus["captions"])
    return [[part.strip() for text in clip for part in text.split(separator) if part.strip()] for clip in corpus["captions"]]  # fmt: skip # noqa: E501


def label_targets(labels: Sequence[Sequence[str]], names: Sequence[str], where: str) -> np.ndarray:
    """(N, C) float32 of 0 and 1 from the labels of each clip.

    Raises:
        ValueError: a label that is not among the names.
    """
    place = {name: column for column, name in enumerate(names)}
    unknown = sorted({label for clip in labels for label in clip} - set(place))
    if unknown:
        raise ValueError(
            f"{where} has labels {unknown[:10]} that no training clip has; its clips know {list(names)[:20]}"
        )
    targets = np.zeros((len(labels), len(names)), dtype=np.float32)
    for row, clip in enumerate(labels):
        targets[row, [place[label] for label in clip]] = 1.0
    return targets


def mixup(
    features: Sequence[np.ndarray], targets: Sequence[np.ndarray], alpha: float, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Lays over each clip another of its batch, and mixes their targets in the same shares.

    Args:
        features: (T, M) log-mel of each clip; T may differ. The other clip is repeated or cut to fit.
        targets: (C,) of each clip.
        alpha: the clip's own share is the larger of x and 1 - x, x ~ Beta(alpha, alpha); 0 changes nothing.
        rng: of the batch.
    Returns:
        features and targets, of the shapes they came in.
    Source: Zhang et al. 2018. Differs: a clip keeps at least half, since the other may have been cut.
    """
    if not alpha:
        return list(features), list(targets)
    mixed, soft = [], []
    for one, other in enumerate(rng.permutation(len(features)).tolist()):
        share = rng.beta(alpha, alpha)
        share = max(share, 1.0 - share)
        length = len(features[one])
        repeats = -(-length // len(features[other]))
        second = np.tile(features[other], (repeats, 1))[:length]
        mixed.append((share * features[one] + (1.0 - share) * second).astype(np.float32))
        soft.append(share * targets[one] + (1.0 - share) * targets[other])
    return mixed, soft


def classification_loss(logits: Tensor, targets: Tensor, multi_label: bool) -> Tensor:
    """Mean cross-entropy of clips, or of clips and classes, with targets that may be mixed.

    Args:
        logits: (B, C).
        targets: (B, C), shares from 0 to 1; rows sum to 1 unless multi_label.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if multi_label:
        return nn.functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))
    return nn.functional.cross_entropy(logits, targets.to(logits.dtype))


def fit_linear(
    features: Tensor, targets: Tensor, multi_label: bool, l2: float, iterations: int = 200
) -> tuple[Tensor, Tensor, list[float]]:
    """Logistic regression, to the optimum: the loss is convex, so there is no learning rate and no chance in it.

    Args:
        features: (N, D); they are standardised inside, and what is returned belongs to the features as they came.
        targets: (N, C) of 0 and 1.
        multi_label: one sigmoid per class in place of a softmax over classes.
        l2: weight of half the squared norm of the matrix, against the mean loss of a clip.
        iterations: at most, of L-BFGS.
    Returns:
        weight (C, D), bias (C,), and the loss with its penalty at every evaluation.
    Paper: not stated; as CLIP's linear probe (Radford et al. 2021, appendix A.3).
    """
    features, targets = features.double(), targets.double()
    mean, std = features.mean(0), features.std(0).clamp(min=1e-6)
    x = (features - mean) / std
    weight = torch.zeros(targets.shape[1], x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(targets.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")
    trail = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = classification_loss(x @ weight.T + bias, targets, multi_label) + l2 / 2 * weight.square().sum()
        loss.backward()
        trail.append(loss.item())
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    weight = weight.detach() / std
    return weight.float(), (bias.detach() - weight @ mean).float(), trail
