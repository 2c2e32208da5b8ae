"""CNN14, CLAP 2022's audio tower."""

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from hf_slap import SlapCnn14Config, SlapCnn14Model, SlapConfig, SlapModel
from hf_slap.starting_points import freeze

SMALL = {"num_mel_bins": 20, "block_sizes": [3, 5, 7], "hidden_size": 7, "max_audio_seconds": 0.3}


@pytest.fixture(scope="module")
def model() -> SlapCnn14Model:
    torch.manual_seed(0)
    model = AutoModel.from_config(SlapCnn14Config(**SMALL))
    model.train()(torch.randn(11, 42, 20) * 3 - 1)  # the running means of the norms are no longer 0
    return model.eval()


def test_the_pooled_feature_is_maximum_plus_mean_over_time_of_the_last_block(model):
    window = torch.randn(1, 42, 20)
    with torch.no_grad():
        output = model(window)
        norm = model.bn0
        x = (window - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
        x = x[:, None]  # (1, 1, frames, mels)
        for number, block in enumerate(model.blocks):
            for conv, norm in ((block.conv1, block.bn1), (block.conv2, block.bn2)):
                x = F.conv2d(x, conv.weight, padding=1)
                shape = (1, -1, 1, 1)
                x = (x - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + 1e-5).sqrt()
                x = (x * norm.weight.view(shape) + norm.bias.view(shape)).relu()
            if number < 2:
                x = F.avg_pool2d(x, 2)
        over_time = x.mean(3)[0]  # (D, moments)
        pooled = model.fc1(over_time.max(1).values + over_time.mean(1)).relu()
    assert torch.allclose(output.pooler_output[0], pooled, atol=1e-5)
    assert output.last_hidden_state.shape == (1, 10, 7)
    assert torch.allclose(output.last_hidden_state[0], over_time.T, atol=1e-5)


def test_a_clip_alone_gets_what_it_gets_in_a_batch(model):
    clips = [torch.randn(length, 20) for length in (42, 130, 9)]
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    mask = torch.arange(130) < torch.tensor([[42], [130], [9]])
    with torch.no_grad():
        together = model(padded, mask).pooler_output
        for number, clip in enumerate(clips):
            assert torch.allclose(model(clip[None]).pooler_output[0], together[number], atol=1e-5)


def test_what_is_frozen_keeps_its_statistics_and_has_no_dropout_in_training():
    tower = AutoModel.from_config(SlapCnn14Config(**SMALL))
    windows = torch.randn(4, 42, 20)
    before = tower.eval()(windows).pooler_output
    freeze(tower, ["bn"])
    tower.train()(windows)
    assert torch.equal(tower.eval()(windows).pooler_output, before) and tower.train().training
    freeze(tower, [""])
    assert torch.equal(tower.train()(windows).pooler_output, before)


def test_moments_lie_where_the_convolutions_hear_them(model):
    seconds = model(torch.randn(1, 42, 20)).token_seconds[0]
    assert seconds.tolist() == pytest.approx([(4 * i + 1.5) / model.config.frames_per_second for i in range(10)])


def test_the_defaults_are_clap_2022():
    with torch.device("meta"):
        model = SlapCnn14Model(SlapCnn14Config())
    assert model.config.window_frames == 690
    # PANNs: convolutions of 64 to 2,048 channels, two of each, their norms, and the last layer
    sizes = [1, 64, 128, 256, 512, 1024, 2048]
    convolutions = sum(9 * a * b + 9 * b * b + 4 * b for a, b in zip(sizes, sizes[1:], strict=False))
    assert sum(p.numel() for p in model.parameters()) == 128 + convolutions + 2048 * 2048 + 2048


def test_it_is_trained_with_a_bert_that_speaks_by_its_first_token():
    config = SlapConfig(
        audio_config={"model_type": "slap_cnn14", **SMALL},
        text_config={
            **{"model_type": "bert", "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2},
            **{"intermediate_size": 17, "vocab_size": 31},
        },
        text_pooling="cls", projection="residual_mlp", projection_dim=5, decoder_config=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = SlapModel(config).train()
    features, ids = torch.randn(3, 60, 20), torch.tensor([[2, 7, 3, 0], [2, 9, 11, 3], [2, 5, 3, 0]])
    loss = model(ids, features, attention_mask=(ids != 0).long(), return_loss=True).loss
    loss.backward()
    assert model.audio_model.blocks[0].conv1.weight.grad.abs().max() > 0
    assert model.text_projection.linear2.weight.grad.abs().max() > 0


def test_sizes_that_do_not_fit_are_refused():
    for changes, message in (({"hidden_size": 8}, "must be hidden_size"), ({"max_audio_seconds": 0.01}, "halve")):
        with pytest.raises(Exception, match=message):
            SlapCnn14Config(**{**SMALL, **changes})
