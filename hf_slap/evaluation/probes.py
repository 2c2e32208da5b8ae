"""Classifiers on frozen features: how much a model knows that a little learning brings out."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

L2_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # against the mean loss of a clip, standardised features
NEIGHBOURS = 10
MOST_FRAMES = 100_000  # of event detection, drawn from the training clips
_HELD_OUT_SHARE = 0.2


def hold_out(targets: np.ndarray, seed: int = 0) -> np.ndarray:
    """(N,) bool: about a fifth of the clips, by class where a clip has one, to choose settings by.

    Args:
        targets: (N, C) of 0 and 1.
    """
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(targets), dtype=bool)
    first = targets.argmax(1)
    for label in np.unique(first):
        members = rng.permutation(np.flatnonzero(first == label))
        chosen[members[: int(len(members) * _HELD_OUT_SHARE + 0.5)]] = True
    return chosen


def linear_probe(
    train: np.ndarray,
    targets: np.ndarray,
    test: np.ndarray,
    multi_label: bool,
    l2: float | None = None,
    held: np.ndarray | None = None,
) -> tuple[np.ndarray, dict]:
    """Logits of logistic regression on one feature per clip.

    Args:
        train, test: (N, D), (M, D).
        targets: (N, C) of 0 and 1.
        multi_label: one sigmoid per class in place of a softmax over classes.
        l2: strength of the penalty; None: of `L2_GRID`, what costs the held-out part of the training clips least.
        held: (N,) bool, that part; None: `hold_out`.
    Returns:
        (M, C), and what was chosen.
    Source: CLIP's linear probe (Radford et al. 2021, appendix A.3); its search is coarser here.
    """
    from ..classification import classification_loss, fit_linear

    x, y = torch.tensor(np.asarray(train, np.float32)), torch.tensor(np.asarray(targets, np.float32))
    if l2 is None:
        held = torch.from_numpy(hold_out(targets) if held is None else held)
        costs = {}
        if held.any():
            for strength in L2_GRID:
                weight, bias, _ = fit_linear(x[~held], y[~held], multi_label, strength)
                costs[strength] = classification_loss(x[held] @ weight.T + bias, y[held], multi_label).item()
        l2 = min(costs, key=costs.get) if costs else 1e-1
    weight, bias, _ = fit_linear(x, y, multi_label, l2)
    return (np.asarray(test, np.float32) @ weight.numpy().T + bias.numpy()), {"l2": l2}


def nearest_neighbours(
    train: np.ndarray, targets: np.ndarray, test: np.ndarray, k: int = NEIGHBOURS
) -> tuple[np.ndarray, dict]:
    """Scores of classes from the `k` training clips of highest cosine similarity, each weighed by exp(cosine / 0.07).

    Args:
        train, test: (N, D), (M, D).
        targets: (N, C) of 0 and 1.
    Returns:
        (M, C), shares that sum to the labels of a clip, and what was chosen.
    Source: the weights are those of Wu et al. 2018, as in DINO's k-NN.
    """

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    k = min(k, len(train))
    known, scores = unit(np.asarray(train, np.float32)), []
    for start in range(0, len(test), 1024):
        cosine = unit(np.asarray(test[start : start + 1024], np.float32)) @ known.T
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        weight = np.exp((np.take_along_axis(cosine, nearest, 1) - 1) / 0.07)
        scores.append(np.einsum("nk,nkc->nc", weight / weight.sum(1, keepdims=True), targets[nearest]))
    return np.concatenate(scores), {"k": k}


class AttentionProbe(nn.Module):
    """Multi-head attention pooling by one learned query, and a linear layer.

    Args:
        size: D of the features.
        classes: C.
    Paper: CaptionStew, probing (b); heads and query not stated: 8 heads, or the most up to 8 that divide D.
    """

    def __init__(self, size: int, classes: int):
        super().__init__()
        heads = max(h for h in range(1, 9) if size % h == 0)
        self.query = nn.Parameter(torch.zeros(1, 1, size))
        self.attention = nn.MultiheadAttention(size, heads, batch_first=True)
        self.output = nn.Linear(size, classes)
        nn.init.normal_(self.query, std=0.02)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) features and (B, T) mask, True at features, to (B, C) logits."""
        query = self.query.expand(len(frames), -1, -1)
        return self.output(self.attention(query, frames, frames, key_padding_mask=~mask, need_weights=False)[0][:, 0])


def attention_probe(
    train: Sequence[np.ndarray],
    targets: np.ndarray,
    test: Sequence[np.ndarray],
    multi_label: bool,
    epochs: int = 40,
    batch: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[np.ndarray, dict]:
    """Logits of `AttentionProbe`, trained on dense features; the epoch that costs the held-out fifth least is kept.

    Args:
        train, test: (T, D) of each clip.
        targets: (N, C) of 0 and 1.
        multi_label: see `linear_probe`.
    Returns:
        (M, C), and what was chosen. Not stated by the paper: AdamW, weight decay 0.01, no schedule.
    """
    from ..classification import classification_loss

    held = hold_out(targets)
    rows = np.flatnonzero(~held)
    some = np.concatenate([np.asarray(train[row], np.float32) for row in rows[:: max(1, len(rows) // 500)]])
    mean, std = some.mean(0), some.std(0) + 1e-6
    y = torch.tensor(np.asarray(targets, np.float32))

    def batches(frames: Sequence[np.ndarray], order: np.ndarray) -> Callable:
        for start in range(0, len(order), batch):
            group = order[start : start + batch]
            padded = nn.utils.rnn.pad_sequence(
                [torch.from_numpy((np.asarray(frames[row], np.float32) - mean) / std) for row in group], True
            )
            lengths = torch.tensor([len(frames[row]) for row in group])
            yield group, padded.to(device), (torch.arange(padded.shape[1]) < lengths[:, None]).to(device)

    def logits(frames: Sequence[np.ndarray], order: np.ndarray) -> Tensor:
        probe.eval()
        with torch.no_grad():
            return torch.cat([probe(x, mask).float().cpu() for _, x, mask in batches(frames, order)])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = AttentionProbe(len(mean), y.shape[1]).to(device)
    optimizer = torch.optim.AdamW(probe.parameters(), learning_rate, weight_decay=0.01)
    rng, best = np.random.default_rng(seed), (np.inf, 0, None)
    judges = np.flatnonzero(held) if held.any() else rows
    for epoch in range(epochs):
        probe.train()
        for group, x, mask in batches(train, rng.permutation(rows)):
            optimizer.zero_grad()
            classification_loss(probe(x, mask), y[group].to(device), multi_label).backward()
            optimizer.step()
        cost = classification_loss(logits(train, judges), y[judges], multi_label).item()
        if cost < best[0]:
            best = (cost, epoch + 1, {name: value.clone() for name, value in probe.state_dict().items()})
    probe.load_state_dict(best[2])
    return logits(test, np.arange(len(test))).numpy(), {"epochs": best[1], "learning_rate": learning_rate}


def few_shot(
    train: np.ndarray,
    targets: np.ndarray,
    test: np.ndarray,
    shots: int,
    draws: int = 10,
    seed: int = 0,
    l2: float = 0.1,
) -> list[np.ndarray]:
    """Logits (M, C) of linear probes that each learned from `shots` clips of a class, drawn anew.

    A class with fewer clips gives all it has. Not stated: the penalty, which so few clips cannot choose.
    """
    rng, first = np.random.default_rng(seed), targets.argmax(1)
    results = []
    for _ in range(draws):
        rows = np.concatenate([rng.permutation(np.flatnonzero(first == c))[:shots] for c in range(targets.shape[1])])
        results.append(linear_probe(train[rows], targets[rows], test, False, l2)[0])
    return results


def frame_probe(
    train: Sequence[np.ndarray], targets: Sequence[np.ndarray], test: Sequence[np.ndarray], seed: int = 0
) -> tuple[list[np.ndarray], dict]:
    """Logits (T, C) over time of each test clip, by logistic regression on single frames.

    Args:
        train, test: (T, D) of each clip.
        targets: (T, C) of each training clip, whether a class is active.
    """
    rng = np.random.default_rng(seed)
    x, y = np.concatenate([np.asarray(f, np.float32) for f in train]), np.concatenate(targets).astype(np.float32)
    held = np.repeat(rng.random(len(train)) < _HELD_OUT_SHARE, [len(f) for f in train])  # clips, not frames
    if len(x) > MOST_FRAMES:
        rows = np.sort(rng.permutation(len(x))[:MOST_FRAMES])
        x, y, held = x[rows], y[rows], held[rows]
    lengths = np.cumsum([len(frames) for frames in test])[:-1]
    logits, chosen = linear_probe(x, y, np.concatenate([np.asarray(f, np.float32) for f in test]), True, None, held)
    return np.split(logits, lengths), {**chosen, "frames": len(x)}
