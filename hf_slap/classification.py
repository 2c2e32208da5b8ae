"""What classification and tagging need: targets, mixup, batches, the loss, scores, and the linear probe."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn

from .data import PretrainDataset, SkippedClip
from .data.batching import ClipRef
from .evaluation.tagging import tagging_scores
from .evaluation.zero_shot import zero_shot_scores


class Classes(NamedTuple):
    """What the clips of a corpus and of a held-out corpus are called.

    Args:
        names: of the C classes, sorted.
        targets, held_out: (N, C) float32 of 0 and 1, of each corpus.
        multi_label: a clip may have several classes.
    """

    names: list[str]
    targets: np.ndarray
    held_out: np.ndarray
    multi_label: bool

    def scores(self, logits: np.ndarray, rows: Sequence[int]) -> dict[str, float]:
        """ "accuracy", or "mAP" where a clip may have several classes, of held-out clips, with "low", "high", "chance".

        Args:
            logits: (n, C), of the held-out clips `rows`.
        """
        if self.multi_label:
            result = tagging_scores(logits, self.held_out[rows], self.names)
            value = {"mAP": result.mean_average_precision}
        else:
            result = zero_shot_scores(logits, self.held_out[rows].argmax(1), self.names)
            value = {"accuracy": result.accuracy}
        return {**value, "low": result.low, "high": result.high, "chance": result.chance}

    @property
    def measure(self) -> str:
        """The name of the score."""
        return "mAP" if self.multi_label else "accuracy"


def read_classes(corpus: Dataset, held_out: Dataset, separator: str | None, multi_label: bool | None) -> Classes:
    """The classes of two corpora that were opened with their labels as captions.

    Args:
        separator: between the labels of one clip in a string, such as ";"; None: a string is one label.
        multi_label: None: if some clip has several labels.
    Raises:
        ValueError: several labels where there may be one, or a held-out label that no training clip has.
    """
    labels, held_out_labels = read_labels(corpus, separator), read_labels(held_out, separator)
    names = sorted({label for clip in labels for label in clip})
    targets = label_targets(labels, names, "the training corpus")
    held_out_targets = label_targets(held_out_labels, names, "the validation corpus")
    if multi_label is None:
        multi_label = bool((targets.sum(1) > 1).any())
    if not multi_label and (np.concatenate([targets, held_out_targets]).sum(1) != 1).any():
        raise ValueError("some clip has several labels; set multi_label=true")
    return Classes(names, targets, held_out_targets, multi_label)


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


class MixedRef(NamedTuple):
    """A clip of a batch, and the clip that is laid over it.

    Args:
        clip: the clip itself.
        over: another of the batch, which may be the clip itself; None: nothing is laid over it.
        share: of the clip itself in the mixture.
    """

    clip: ClipRef
    over: ClipRef | None = None
    share: float = 1.0


def draw_pairs(batch: Sequence[ClipRef], alpha: float, seed: int) -> list[MixedRef]:
    """Draws for each clip of a batch another one that is laid over it.

    Args:
        batch: of all processes, so that the pairs do not depend on how many there are. (A process then also reads the
            clips of others that lie over its own; with many processes that is about twice the reading.)
        alpha: the clip's own share is the larger of x and 1 - x, x ~ Beta(alpha, alpha); 0: no clip has a partner.
        seed: of the run.
    Source: Zhang et al. 2018. Differs: a clip keeps at least half, since the other may be cut to fit.
    """
    if not alpha:
        return [MixedRef(ref) for ref in batch]
    rng = np.random.default_rng((seed, batch[0].epoch, batch[0].position))
    partners, shares = rng.permutation(len(batch)), rng.beta(alpha, alpha, len(batch))
    return [
        MixedRef(ref, batch[partner], float(max(share, 1.0 - share)))
        for ref, partner, share in zip(batch, partners, shares, strict=True)
    ]


def mixup(features: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """(T, M): `share` of a log-mel (T, M) and the rest of another, repeated or cut to the same length."""
    repeats = -(-len(features) // len(other))
    return (share * features + (1.0 - share) * np.tile(other, (repeats, 1))[: len(features)]).astype(np.float32)


class LabelledClip(NamedTuple):
    """A clip to learn from: log-mel (T, M) and targets (C,), both mixed in the same shares."""

    id: str
    features: np.ndarray
    target: np.ndarray
    seconds: float


class LabelledClips(torch.utils.data.Dataset):
    """Clips with their targets, mixed in pairs; a whole batch is read at once, each of its clips once.

    Args:
        clips: a clip whose waveform another was laid over (`ClipSettings.mix_probability`) has the labels of both:
            all of them where a clip may have several, else in equal shares.
        targets: (N, C) of all clips of the corpus.
        multi_label: a clip may have several classes.
    """

    def __init__(self, clips: PretrainDataset, targets: np.ndarray, multi_label: bool):
        self.clips, self.targets, self.multi_label = clips, targets, multi_label

    def __getitems__(self, batch: Sequence[MixedRef]) -> list[LabelledClip | SkippedClip]:
        """The clips of `MixedRef`s; one whose partner cannot be heard stays alone."""
        heard = {ref: self.clips[ref] for ref in {ref for pair in batch for ref in (pair.clip, pair.over) if ref}}
        return [self._mixed(pair, heard) for pair in batch]

    def _mixed(self, pair: MixedRef, heard: dict) -> LabelledClip | SkippedClip:
        clip, over = heard[pair.clip], heard.get(pair.over)
        if isinstance(clip, SkippedClip):
            return clip
        features, target = clip.features, self._target(pair.clip, clip)
        if over is not None and not isinstance(over, SkippedClip):
            features = mixup(features, over.features, pair.share)
            target = pair.share * target + (1.0 - pair.share) * self._target(pair.over, over)
        return LabelledClip(clip.id, features, target.astype(np.float32), clip.seconds)

    def _target(self, ref: ClipRef, clip) -> np.ndarray:
        target = self.targets[[ref.index, *clip.mixed_in]].max(0)
        return target if self.multi_label else target / target.sum()


def pack_clips(items: Sequence[LabelledClip | SkippedClip]) -> dict:
    """The batch of a training step.

    Returns:
        "input_features" (F, M), all clips packed; "clip_frames", the frames of each; "targets" (B, C); "ids";
        "audio_seconds"; "skipped", (id, reason) of the clips left out.
    Raises:
        ValueError: not one clip is left.
    """
    skipped = [(clip.id, clip.reason) for clip in items if isinstance(clip, SkippedClip)]
    clips = [clip for clip in items if isinstance(clip, LabelledClip)]
    if not clips:
        raise ValueError(f"not one clip of a batch can be used: {skipped[:10]}; repair or remove them")
    return {
        "input_features": torch.from_numpy(np.concatenate([clip.features for clip in clips])),
        "clip_frames": [len(clip.features) for clip in clips],
        "targets": torch.from_numpy(np.stack([clip.target for clip in clips])),
        "ids": [clip.id for clip in clips],
        "audio_seconds": sum(clip.seconds for clip in clips),
        "skipped": skipped,
    }


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
