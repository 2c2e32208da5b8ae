"""Losses by values worked by hand, and by what must raise or lower them."""

import math

import pytest
import torch
from transformers import SiglipConfig, SiglipModel

from hf_slap.modeling.losses_slap import caption_loss, contrastive_loss, sigmoid_contrastive_loss

ONE = torch.tensor(1.0)
SIGLIP = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 12}


def test_two_orthogonal_pairs_cost_what_the_formula_says():
    pairs = torch.eye(2)
    assert contrastive_loss(pairs, pairs, ONE).item() == pytest.approx(math.log(1 + 1 / math.e))


def test_the_scale_multiplies_the_similarities():
    pairs = torch.eye(3)
    assert contrastive_loss(pairs, pairs, 5.0).item() == pytest.approx(math.log(1 + 2 * math.exp(-5)))


def test_equal_embeddings_cost_the_logarithm_of_the_batch():
    same = torch.ones(7, 1)
    assert contrastive_loss(same, same, 13.0).item() == pytest.approx(math.log(7))


def test_a_wrong_pair_that_comes_closer_raises_the_loss():
    text = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    near_wrong = torch.tensor([[0.6, 0.8, 0.0], [0.0, 1.0, 0.0]])  # the right pair stays at 0.6
    far_from_it = torch.tensor([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]])
    assert contrastive_loss(near_wrong, text, ONE) > contrastive_loss(far_from_it, text, ONE)


def test_swapping_the_sides_changes_nothing():
    audio, text = torch.nn.functional.normalize(torch.randn(2, 5, 3), dim=-1)
    assert contrastive_loss(audio, text, 3.0) == pytest.approx(contrastive_loss(text, audio, 3.0))


def test_an_ignored_pair_is_no_negative_and_partners_cannot_be_ignored():
    embeds = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # clips 0 and 1 have the same caption
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    expected = (2 * math.log(1 + 1 / math.e) + math.log(1 + 2 / math.e)) / 3
    assert contrastive_loss(embeds, embeds, ONE, ignore=same).item() == pytest.approx(expected)
    assert contrastive_loss(embeds, embeds, ONE, ignore=torch.ones(3, 3, dtype=torch.bool)).item() == 0


def test_sides_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 2\) and text_embeds \(2, 2\)"):
        contrastive_loss(torch.zeros(3, 2), torch.zeros(2, 2), ONE)
    with pytest.raises(ValueError, match="one entry per pair"):
        contrastive_loss(torch.zeros(3, 2), torch.zeros(3, 2), ONE, ignore=torch.zeros(2, 2, dtype=torch.bool))


def test_the_sigmoid_loss_by_hand():
    # Of three texts, the second is the partner of the only clip; logits 2 x cosine - 1 are 1, -1, -3.
    audio, text = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    expected = math.log(1 + math.e) + math.log(1 + math.e) + math.log(1 + math.exp(-3))
    assert sigmoid_contrastive_loss(audio, text, 2.0, -1.0, first=1).item() == pytest.approx(expected)
    alone = torch.tensor([[True, True, False]])  # the first text is another clip's with the same caption
    expected = math.log(1 + math.e) + math.log(1 + math.exp(-3))
    assert sigmoid_contrastive_loss(audio, text, 2.0, -1.0, alone, first=1).item() == pytest.approx(expected)


def test_the_sigmoid_loss_pulls_partners_together_and_pushes_wrong_pairs_apart():
    """With labels 1 and 0 in place of 1 and -1, the pairs that do not belong together would have no gradient."""
    generator = torch.Generator().manual_seed(0)
    cosines = (torch.rand(5, 5, generator=generator, dtype=torch.float64) * 2 - 1).requires_grad_()
    sigmoid_contrastive_loss(cosines, torch.eye(5, dtype=torch.float64), 3.0, -1.0).backward()
    partners = torch.eye(5, dtype=torch.bool)
    assert (cosines.grad[partners] < 0).all() and (cosines.grad[~partners] > 0).all()
    # by the formula: scale x (sigmoid(logit) - is it the partner), averaged over clips
    expected = 3 * (torch.sigmoid(3 * cosines.detach() - 1) - torch.eye(5, dtype=torch.float64)) / 5
    assert torch.allclose(cosines.grad, expected)


def test_the_sigmoid_loss_and_its_gradients_are_those_of_siglip():
    model = SiglipModel(SiglipConfig(text_config=SIGLIP, vision_config={**SIGLIP, "image_size": 4, "patch_size": 2}))
    inputs = {"input_ids": torch.arange(12).view(4, 3), "pixel_values": torch.linspace(-1, 1, 192).view(4, 3, 4, 4)}
    theirs = model(**inputs, return_loss=True)
    theirs.loss.backward()
    scale, bias = (
        model.logit_scale.detach().clone().requires_grad_(),
        model.logit_bias.detach().clone().requires_grad_(),
    )
    # a text of theirs is a row, as a clip is of ours
    ours = sigmoid_contrastive_loss(theirs.text_embeds.detach(), theirs.image_embeds.detach(), scale.exp(), bias)
    ours.backward()
    assert ours.item() == pytest.approx(theirs.loss.item(), rel=1e-5)
    assert torch.allclose(scale.grad, model.logit_scale.grad, rtol=1e-4)
    assert torch.allclose(bias.grad, model.logit_bias.grad, rtol=1e-4)


def test_sigmoid_texts_without_the_partners_are_refused():
    for clips, texts, first in ((3, 2, 0), (2, 3, 2)):
        with pytest.raises(ValueError, match="must hold the partners"):
            sigmoid_contrastive_loss(torch.zeros(clips, 2), torch.zeros(texts, 2), 1.0, first=first)
    with pytest.raises(ValueError, match="one entry per pair"):
        sigmoid_contrastive_loss(torch.zeros(2, 2), torch.zeros(3, 2), 1.0, ignore=torch.zeros(2, 2, dtype=torch.bool))


def test_a_caption_costs_the_mean_over_its_real_tokens():
    logits = torch.tensor([[[0.0, math.log(3.0)], [math.log(9.0), 0.0], [5.0, 1.0]]])
    labels = torch.tensor([[1, 1, -100]])  # probabilities 3/4 and 1/10
    assert caption_loss(logits, labels).item() == pytest.approx((math.log(4 / 3) + math.log(10)) / 2)


def test_a_batch_without_caption_tokens_costs_nothing_and_stays_differentiable():
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    loss = caption_loss(logits, torch.full((1, 2), -100))
    loss.backward()
    assert loss.item() == 0 and logits.grad.abs().max() == 0


def test_half_precision_losses_are_float32():
    embeds = torch.eye(3, dtype=torch.bfloat16)
    assert contrastive_loss(embeds, embeds, ONE).dtype == torch.float32
    assert caption_loss(torch.zeros(1, 1, 2, dtype=torch.bfloat16), torch.zeros(1, 1).long()).dtype == torch.float32
