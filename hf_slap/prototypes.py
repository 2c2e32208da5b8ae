"""Masked prediction: which prototypes a patch belongs to, says the teacher, and what it costs the student.

Letters: n masked patches, K prototypes, W width of the bottleneck.

A score is the cosine of a patch's feature and a prototype. With K = 65,536 the (n, K) table of scores would be by far
the largest thing in training, so it never exists: every function here computes it anew, a few rows at a time
(`SCORES_AT_ONCE`), and the gradient does so again.

Paper: SLAP, section 2: "MLP head to prototype scores; cross-entropy teacher to student per patch". Not stated:
prototypes, temperatures, centring, which patches are scored. Chosen as in DINOv2 ViT-L.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .distributed import sum_over_ranks
from .modeling.losses_slap import at_least_float32

CENTERINGS = ("sinkhorn", "softmax")
SCORES_AT_ONCE = 2**24  # 64 MiB of float32; a few such tables are alive at the same time


def prototype_scores(features: Tensor, prototypes: Tensor) -> Tensor:
    """(n, W) and (K, W), both unit norm, to their cosines (n, K), in float32 at least, under autocast too."""
    with torch.autocast(features.device.type, enabled=False):
        return at_least_float32(features) @ at_least_float32(prototypes).T


def rows_at_once(num_prototypes: int) -> int:
    """How many rows of scores are held at a time."""
    return max(1, SCORES_AT_ONCE // num_prototypes)


# ---------------------------------------------------------------------------------------------------- targets
@dataclasses.dataclass(frozen=True, eq=False)
class PrototypeTargets:
    """Which prototypes each patch belongs to: softmax(cosines / temperature + offsets), row by row when asked for.

    Sinkhorn's result and centring's both have this form, so K offsets are all that is kept of either.

    Args:
        features: (n, W), the teacher's, unit norm.
        prototypes: (K, W), the teacher's, unit norm.
        offsets: (K,), added to the scores of each prototype: `sinkhorn_offsets` or `SoftmaxCentering`.
        temperature: the cosines are divided by it.
    """

    features: Tensor
    prototypes: Tensor
    offsets: Tensor
    temperature: float

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice) -> "PrototypeTargets":
        """The targets of these patches."""
        return dataclasses.replace(self, features=self.features[rows])

    def split(self) -> list["PrototypeTargets"]:
        """Parts small enough for `probabilities`; one that is empty when there is no patch."""
        parts = self.features.split(rows_at_once(len(self.prototypes)))
        return [dataclasses.replace(self, features=part) for part in parts]

    @torch.no_grad()
    def probabilities(self) -> Tensor:
        """(n, K), float32 (float64 for float64 features); rows sum to 1. The whole table: take a part first."""
        scores = prototype_scores(self.features, self.prototypes)
        return torch.softmax(scores.div_(self.temperature).add_(self.offsets), dim=-1)


@torch.no_grad()
def sinkhorn_offsets(features: Tensor, prototypes: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Offsets with which every prototype is used alike (Sinkhorn-Knopp), over the patches of all ranks.

    An iteration makes each prototype's column of exp(cosines / temperature) sum to 1, then each patch's row. Only the
    K sums of the columns travel between ranks; the last division of the rows is the softmax of `PrototypeTargets`.

    Args:
        features: (n, W), unit norm. n may differ between ranks and be 0.
        prototypes: (K, W), unit norm.
        temperature: the cosines are divided by it.
        iterations: rounds of making prototypes, then patches, sum alike.
    Returns:
        (K,), float32 (float64 for float64 features).
    Paper: Not stated. SwAV (Caron et al. 2020), appendix; DINOv2 ViT-L and DINOv3 use 3 iterations.
    """
    # Before the first iteration the rows have no sum of 1 yet: a cosine is at most 1, so exp() stays finite.
    offsets = at_least_float32(features).new_full((len(prototypes),), -1 / temperature)
    for iteration in range(iterations):
        used = torch.zeros_like(offsets)  # (K,), sums of the columns
        for part in features.split(rows_at_once(len(prototypes))):
            scores = prototype_scores(part, prototypes).div_(temperature).add_(offsets)
            used += (scores.exp_() if iteration == 0 else torch.softmax(scores, dim=-1)).sum(0)
        offsets -= sum_over_ranks(used).clamp(min=torch.finfo(used.dtype).tiny).log()
    return offsets


class SoftmaxCentering(nn.Module):
    """The cheaper alternative to Sinkhorn: softmax of the scores less their running mean.

    The running mean is the one from before this step; the patches of all ranks are added afterwards.

    Args:
        num_prototypes: K.
        momentum: share of the old mean that is kept. Paper: Not stated; 0.9 as in DINO.
    """

    def __init__(self, num_prototypes: int, momentum: float = 0.9):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(num_prototypes))

    @torch.no_grad()
    def forward(self, features: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
        """(n, W) and (K, W) to the offsets (K,) of `PrototypeTargets`."""
        features = at_least_float32(features)
        offsets = -self.center.to(features.dtype) / temperature
        count = sum_over_ranks(features.new_tensor(len(features)))
        mean = sum_over_ranks(features.sum(0)) / count.clamp(min=1)  # the mean score is the score of the mean
        self.center.lerp_(prototype_scores(mean[None], prototypes)[0].to(self.center.dtype), 1.0 - self.momentum)
        return offsets


# ------------------------------------------------------------------------------------------------------- loss
def masked_prediction_loss(
    student_features: Tensor,
    prototypes: Tensor,
    targets: PrototypeTargets,
    clip_of_patch: Tensor,
    student_temperature: float = 0.1,
) -> Tensor:
    """Cross-entropy of the student's prototypes under the teacher's, every clip counting alike.

    Args:
        student_features: (n, W), of the masked patches, unit norm.
        prototypes: (K, W), the student's, unit norm.
        targets: the teacher's, of the same n patches.
        clip_of_patch: (n,), int64, the clip of each patch. A patch weighs 1 / (masked patches of its clip).
        student_temperature: the cosines are divided by it.
    Returns:
        (), float32 (float64 for float64 features), in nats per patch; the mean over clips that have a masked patch, 0
        when none has.
    Raises:
        ValueError: the numbers of patches or prototypes do not fit.
    Paper: L_SSL. Not stated which patches count and how clips are weighed; masked ones, 1/n per clip,
        temperature 0.1, as in DINOv2's iBOT loss.
    """
    if not len(student_features) == len(targets) == len(clip_of_patch) or len(prototypes) != len(targets.prototypes):
        raise ValueError(
            f"student_features {tuple(student_features.shape)}, targets of {len(targets)} patches and clip_of_patch "
            f"{tuple(clip_of_patch.shape)} must describe the same patches, and prototypes {tuple(prototypes.shape)} "
            f"the teacher's {len(targets.prototypes)}; student and teacher must have seen the same patch_mask"
        )
    cost = patch_costs(student_features, prototypes, targets, student_temperature)
    masked = torch.bincount(clip_of_patch)  # masked patches of each clip
    return (cost / masked[clip_of_patch]).sum() / (masked > 0).sum().clamp(min=1)


def patch_costs(
    student_features: Tensor, prototypes: Tensor, targets: PrototypeTargets, student_temperature: float
) -> Tensor:
    """(n,), the cross-entropy of each patch: what `masked_prediction_loss` averages."""

    def cost_of(features: Tensor, prototypes: Tensor, part: PrototypeTargets) -> Tensor:
        log_probs = F.log_softmax(prototype_scores(features, prototypes) / student_temperature, dim=-1)
        return -(part.probabilities() * log_probs).sum(-1)

    parts = zip(student_features.split(rows_at_once(len(prototypes))), targets.split(), strict=True)
    return torch.cat([  # backward computes the scores of a part again rather than keep them
        checkpoint(cost_of, features, prototypes, part, use_reentrant=False, preserve_rng_state=False)
        for features, part in parts
    ])  # fmt: skip


# ------------------------------------------------------------------------------------------------- statistics
@torch.no_grad()
def prototype_statistics(targets: PrototypeTargets, clip_of_patch: Tensor) -> dict[str, float]:
    """How the targets use the prototypes, over all ranks, every clip counting alike, as in the loss.

    Args:
        targets: of the n masked patches of this rank; n may be 0.
        clip_of_patch: (n,), int64, the clip of each patch.
    Returns:
        "target_entropy": mean entropy of a patch's target, as a share of log K: 0 names one prototype, 1 names none.
        "prototype_entropy": entropy of the mean target, as a share of log K: 1 is all prototypes in equal use, 0 is
            one for every patch.
        "target_information": their difference, the mutual information of patch and prototype: 0 says that all patches
            have the same target, so that there is nothing to predict.
        "prototypes_used": prototypes that are the likeliest of some patch, as a share of the most there could be, the
            smaller of K and the patches.
        "constant_prediction": nats per patch that the best prediction costs that is the same for all patches.
    Paper: Not stated. Both entropies are what DINO (Caron et al. 2021, section 5.3) watches for collapse.
    """
    masked = torch.bincount(clip_of_patch)  # masked patches of each clip
    weights = at_least_float32(targets.features).new_ones(len(targets)) / masked[clip_of_patch]  # (n,)
    mean, used = weights.new_zeros(len(targets.prototypes)), weights.new_zeros(len(targets.prototypes))
    entropy, start = weights.new_zeros(()), 0
    for part in targets.split():
        probabilities = part.probabilities()
        share = weights[start : start + len(part)]
        entropy += share @ torch.special.entr(probabilities).sum(-1)
        mean += share @ probabilities
        used[probabilities.argmax(-1)] = 1
        start += len(part)
    patches, clips = sum_over_ranks(torch.stack([weights.new_tensor(len(targets)), (masked > 0).sum()])).tolist()
    most, clips = math.log(len(mean)), max(clips, 1)
    target_entropy = float(sum_over_ranks(entropy)) / clips
    constant = float(torch.special.entr(sum_over_ranks(mean) / clips).sum())
    return {
        "target_entropy": target_entropy / most,
        "prototype_entropy": constant / most,
        "target_information": (constant - target_entropy) / most,
        "prototypes_used": float((sum_over_ranks(used) > 0).sum()) / max(min(patches, len(mean)), 1),
        "constant_prediction": constant,
    }
