"""Targets and loss of masked prediction, part by part, against the whole table of scores that they never hold."""

import math

import pytest
import torch
import torch.nn.functional as F

from hf_slap import prototypes as module
from hf_slap.prototypes import (
    PrototypeTargets,
    SoftmaxCentering,
    masked_prediction_loss,
    prototype_scores,
    prototype_statistics,
    rows_at_once,
    sinkhorn_offsets,
)


def unit(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def sinkhorn_targets(features, prototypes, temperature, iterations=3):
    offsets = sinkhorn_offsets(features, prototypes, temperature, iterations)
    return PrototypeTargets(features, prototypes, offsets, temperature)


def table_sinkhorn(scores, temperature, iterations=3):
    """The textbook: the whole (n, K) table, columns to 1, rows to 1."""
    shares = torch.exp((scores - scores.max()) / temperature)
    for _ in range(iterations):
        shares = shares / shares.sum(0, keepdim=True)
        shares = shares / shares.sum(1, keepdim=True)
    return shares


def table_loss(features, prototypes, probabilities, clip_of_patch, temperature):
    log_probs = F.log_softmax(features @ prototypes.T / temperature, dim=-1)
    of_clip = [-(probabilities * log_probs).sum(-1)[clip_of_patch == clip].mean() for clip in clip_of_patch.unique()]
    return torch.stack(of_clip).mean()


@pytest.fixture
def seven_rows(monkeypatch):
    """53 prototypes: 7 rows of scores at a time, so that 30 patches are four whole parts and a broken one."""
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 7 * 53)


# ---------------------------------------------------------------------------------------------------- targets
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_sinkhorn_in_parts_is_sinkhorn_on_the_table(seven_rows, dtype, tolerance):
    features, prototypes = unit(30, 5, dtype=dtype), unit(53, 5, seed=1, dtype=dtype)
    targets = sinkhorn_targets(features, prototypes, 0.04)
    expected = table_sinkhorn((features @ prototypes.T).double(), 0.04)
    assert len(targets.split()) == 5
    found = torch.cat([part.probabilities() for part in targets.split()])
    assert found.dtype == dtype and (found - expected).abs().max() < tolerance
    assert len(targets[4:20]) == 16 and torch.allclose(targets[4:20].probabilities(), found[4:20], atol=tolerance)


def test_sinkhorn_by_hand():
    # exp(scores) = [[e, 1], [1, 1]]. Columns to 1: [[e/(e+1), 1/2], [1/(e+1), 1/2]], then rows.
    targets = sinkhorn_targets(torch.eye(2)[[0, 1]], torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 1.0, iterations=1)
    e = math.e
    assert targets.probabilities()[0].tolist() == pytest.approx([2 * e / (3 * e + 1), (e + 1) / (3 * e + 1)])
    assert targets.probabilities()[1].tolist() == pytest.approx([2 / (e + 3), (e + 1) / (e + 3)])


def test_prototypes_are_used_alike_and_rows_sum_to_one():
    features, prototypes = F.normalize(unit(53, 4) + unit(1, 4, seed=9), dim=-1), unit(7, 4, seed=1)  # all to one side
    many = sinkhorn_targets(features, prototypes, 0.07, iterations=200).probabilities()
    assert torch.allclose(many.sum(0), torch.full((7,), 53 / 7, dtype=torch.float64), atol=1e-2)
    three = sinkhorn_targets(features, prototypes, 0.07).probabilities()
    assert torch.allclose(three.sum(1), torch.ones(53, dtype=torch.float64))
    assert three.sum(0).std() < torch.softmax(features @ prototypes.T / 0.07, dim=-1).sum(0).std() / 1.5


@pytest.mark.parametrize("temperature", [0.04, 0.005])
def test_targets_are_float32_and_finite_where_a_prototype_is_far_from_every_patch(temperature):
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.bfloat16)
    prototypes = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.bfloat16)  # exp(-2 / 0.005) is 0 in float32
    probabilities = sinkhorn_targets(features, prototypes, temperature).probabilities()
    assert probabilities.dtype == torch.float32 and probabilities.isfinite().all()


def test_no_patch_has_no_target():
    targets = sinkhorn_targets(torch.zeros(0, 5), unit(7, 5, dtype=torch.float32), 0.04)
    assert len(targets) == 0 and targets.probabilities().shape == (0, 7) and targets.offsets.isfinite().all()


def test_centring_subtracts_the_mean_of_the_steps_before():
    centering, prototypes = SoftmaxCentering(2, momentum=0.9), torch.eye(2)
    features = torch.tensor([[0.6, 0.8], [0.6, 0.0]])  # their scores; the mean is 0.6, 0.4
    assert centering(features, prototypes, 0.5).tolist() == [0.0, 0.0]
    assert centering.center.tolist() == pytest.approx([0.06, 0.04])  # 0.9 x 0 + 0.1 x mean
    offsets = centering(features, prototypes, 0.5)
    assert centering.center.tolist() == pytest.approx([0.114, 0.076])  # 0.9 x 0.06 + 0.1 x 0.6
    expected = torch.softmax((features - torch.tensor([0.06, 0.04])) / 0.5, -1)
    assert torch.allclose(PrototypeTargets(features, prototypes, offsets, 0.5).probabilities(), expected)


def test_scores_are_not_rounded_under_autocast():
    features, prototypes = unit(3, 5, dtype=torch.float32), unit(7, 5, seed=1, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        scores = prototype_scores(features, prototypes)
        loss = masked_prediction_loss(
            features, prototypes, sinkhorn_targets(features, prototypes, 0.1), torch.tensor([0, 0, 1])
        )
    assert torch.equal(scores, prototype_scores(features, prototypes)) and scores.dtype == torch.float32
    plain = masked_prediction_loss(
        features, prototypes, sinkhorn_targets(features, prototypes, 0.1), torch.tensor([0, 0, 1])
    )
    assert torch.equal(loss, plain)


# ------------------------------------------------------------------------------------------------------- loss
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_loss_and_gradients_in_parts_are_those_of_the_table(seven_rows, dtype, tolerance):
    teacher, clips = unit(30, 5, seed=2, dtype=dtype), torch.arange(30) % 11
    targets = sinkhorn_targets(teacher, unit(53, 5, seed=3, dtype=dtype), 0.05)
    gradients = []
    for function in (masked_prediction_loss, table_loss):
        features, prototypes = (unit(n, 5, seed=n, dtype=dtype).requires_grad_() for n in (30, 53))
        what = targets if function is masked_prediction_loss else targets.probabilities()
        loss = function(features, prototypes, what, clips, 0.1)
        loss.backward()
        gradients.append((loss.detach(), features.grad, prototypes.grad))
    for ours, expected in zip(*gradients, strict=True):
        assert ours.dtype == dtype and (ours - expected).abs().max() < tolerance * expected.abs().max()


def test_the_loss_by_hand_with_every_clip_counting_alike():
    # Clip 0 has one masked patch at cost log 2, clip 1 has three at log 4 each: the mean of the clips is (ln 2 + ln 4) / 2.
    prototypes = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    student = torch.tensor([[1.0, 0.0], *[[0.0, 1.0]] * 3])  # the second kind is as far from every prototype
    targets = PrototypeTargets(student, prototypes, torch.zeros(4), 0.01)  # halves of the first two; quarters
    loss = masked_prediction_loss(student, prototypes, targets, torch.tensor([0, 1, 1, 1]), student_temperature=0.01)
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_the_loss_uses_the_student_temperature():
    prototypes = torch.eye(2)
    targets = PrototypeTargets(torch.tensor([[1.0, 0.0]]), prototypes, torch.zeros(2), 1e-3)  # all on the first
    loss = masked_prediction_loss(torch.tensor([[0.1, 0.0]]), prototypes, targets, torch.tensor([0]), 0.1)
    assert loss.item() == pytest.approx(math.log(1 + 1 / math.e))


def test_no_masked_patch_costs_nothing_and_mismatched_shapes_are_refused():
    prototypes = unit(7, 4).requires_grad_()
    empty = torch.zeros(0, 4, dtype=torch.float64, requires_grad=True)
    loss = masked_prediction_loss(
        empty, prototypes, sinkhorn_targets(empty.detach(), prototypes.detach(), 0.1), torch.zeros(0).long()
    )
    loss.backward()  # a rank without a masked patch takes part in DDP's sums all the same
    assert loss.item() == 0.0 and prototypes.grad.abs().sum() == 0 and empty.grad is not None
    with pytest.raises(ValueError, match="same patch_mask"):
        two = PrototypeTargets(torch.zeros(2, 4), prototypes, torch.zeros(7), 0.1)
        masked_prediction_loss(torch.zeros(3, 4), prototypes, two, torch.zeros(3, dtype=torch.long))


def test_no_table_of_scores_is_ever_held(monkeypatch):
    """Sinkhorn, statistics, loss and gradient make no tensor larger than a part of it, and backward keeps no parts."""
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 16 * 64)
    largest, kept = [], []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            largest.extend(t.numel() for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    features, prototypes = unit(512, 4).requires_grad_(), unit(64, 4, seed=1).requires_grad_()
    with Watch():
        targets = sinkhorn_targets(unit(512, 4, seed=2), prototypes.detach(), 0.05)
        prototype_statistics(targets, torch.zeros(512, dtype=torch.long))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = masked_prediction_loss(features, prototypes, targets, torch.zeros(512, dtype=torch.long))
        loss.backward()
    assert max(kept) < 16 * 64, "backward keeps features and prototypes, but no part of the scores"
    assert max(largest) <= 512 * 4, "features are larger than a part of the scores; the table would be 512 x 64"
    assert prototypes.grad is not None


# ------------------------------------------------------------------------------------------------- statistics
def statistics(targets, clips=None):
    return prototype_statistics(targets, torch.zeros(len(targets), dtype=torch.long) if clips is None else clips)


def test_statistics_tell_a_collapse_from_a_healthy_use(seven_rows):
    eye = torch.eye(4)
    healthy = statistics(PrototypeTargets(eye, eye, torch.zeros(4), 1e-3))
    assert healthy == {
        "target_entropy": 0.0, "prototype_entropy": pytest.approx(1), "target_information": pytest.approx(1),
        "prototypes_used": 1.0, "constant_prediction": pytest.approx(math.log(4)),
    }  # fmt: skip
    flat = statistics(PrototypeTargets(eye, torch.zeros(53, 4), torch.zeros(53), 1.0))
    assert flat["target_entropy"] == flat["prototype_entropy"] == pytest.approx(1) and flat["prototypes_used"] == 0.25
    assert flat["target_information"] == pytest.approx(0, abs=1e-6)
    one = statistics(PrototypeTargets(torch.ones(4, 4) / 2, eye, torch.tensor([50.0, 0, 0, 0]), 1.0))
    assert one["target_entropy"] == pytest.approx(0) and one["prototype_entropy"] == pytest.approx(0)
    many = statistics(PrototypeTargets(unit(30, 5), unit(53, 5, seed=1), torch.zeros(53), 1e-3))
    nearest = (unit(30, 5) @ unit(53, 5, seed=1).T).argmax(1).unique()
    assert many["prototypes_used"] == pytest.approx(len(nearest) / 30)
    assert rows_at_once(53) == 7


def test_the_constant_prediction_is_the_best_one_that_hears_nothing(seven_rows):
    """Its cost is that of a student whose every patch predicts the mean target, in the loss itself."""
    targets, clips = sinkhorn_targets(unit(30, 5), unit(53, 5, seed=1), 0.1), torch.tensor([0] * 20 + [1] * 3 + [3] * 7)
    weights = (1 / torch.bincount(clips))[clips].double() / 3
    mean = weights @ targets.probabilities()
    # Cosines whose softmax is the mean target: one feature, and prototypes that are its log times that feature.
    student, prototypes = torch.ones(30, 1, dtype=torch.float64), mean.log()[:, None]
    loss = masked_prediction_loss(student, prototypes, targets, clips, 1.0)
    assert statistics(targets, clips)["constant_prediction"] == pytest.approx(loss.item())
    worse = masked_prediction_loss(student, mean.log()[:, None] * 1.1, targets, clips, 1.0)
    assert worse > loss


def test_statistics_of_no_patch_are_finite():
    nothing = PrototypeTargets(torch.zeros(0, 4), torch.eye(4), torch.zeros(4), 0.1)
    assert all(map(math.isfinite, statistics(nothing).values()))
