"""Windows around an encoder whose features say which frames it heard."""

import pytest
import torch
from torch import nn

from hf_slap import SlapFeatureExtractor, SlapWindowedAudioConfig, SlapWindowedAudioModel
from hf_slap.modeling import windowed_slap
from hf_slap.modeling.front_end_slap import audio_windows


class FramesConfig(SlapWindowedAudioConfig):
    model_type = "frames"


class FramesModel(SlapWindowedAudioModel):
    """Every token is the mean of 4 frames, the pooled feature the mean of the window."""

    config_class = FramesConfig

    def __init__(self, config):
        super().__init__(config)
        self.gain = nn.Parameter(torch.ones(()))
        self.windows = []
        self.post_init()

    def encode(self, windows, lengths):
        self.windows.append((tuple(windows.shape), lengths.tolist()))
        means = windows.unflatten(1, (-1, 4)).mean(2) * self.gain
        return means, windows.mean(1)


def frames_model(**changes) -> FramesModel:
    # 0.79 s at 100 frames per second: windows of 80 frames, 20 tokens
    keywords = {"hidden_size": 3, "num_mel_bins": 3, "max_audio_seconds": 0.79, "window_overlap_seconds": 0.16}
    return FramesModel(FramesConfig(**{**keywords, **changes})).eval()


def counting(frames: int) -> torch.Tensor:
    """(frames, 3): every frame holds its number."""
    return torch.arange(frames, dtype=torch.float32)[:, None].expand(-1, 3)


@pytest.mark.parametrize("frames", [80, 83, 144, 500, 1003])
def test_tokens_of_a_long_clip_follow_one_another_in_time(frames):
    model = frames_model()
    output = model(counting(frames)[None])
    heard, seconds = output.last_hidden_state[0, :, 0], output.token_seconds[0]
    assert torch.allclose(heard, seconds * 100, atol=1e-3)  # the token stands where its frames are
    steps = heard.diff()
    assert steps.min() > 0 and steps.max() <= 8  # none twice, none left out; the last window lies off the grid of 4
    assert heard[0] == 1.5 and heard[-1] == frames - 2.5
    assert output.attention_mask.all()


def test_the_pooled_feature_weighs_windows_by_what_they_own():
    model = frames_model()
    windows = audio_windows(500, model.config)
    by_hand = sum((end - start) * (first + 39.5) for first, _, start, end in windows) / 500
    assert model(counting(500)[None]).pooler_output[0, 0].item() == pytest.approx(by_hand, abs=1e-3)


def test_batch_mates_and_padding_and_packing_change_nothing():
    model = frames_model()
    lengths = [500, 7, 80, 131]
    clips = [torch.randn(length, 3) for length in lengths]
    padded = nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=9e9)
    mask = torch.arange(500) < torch.tensor(lengths)[:, None]
    together, packed = model(padded, mask), model(torch.cat(clips), clip_frames=lengths)
    for number, clip in enumerate(clips):
        alone = model(clip[None])
        tokens = int(together.attention_mask[number].sum())
        assert tokens == alone.last_hidden_state.shape[1]
        for output in (together, packed):
            assert torch.allclose(output.pooler_output[number], alone.pooler_output[0], atol=1e-6)
            assert torch.allclose(output.last_hidden_state[number, :tokens], alone.last_hidden_state[0], atol=1e-6)
            assert not output.last_hidden_state[number, tokens:].any()


def test_a_short_clip_is_repeated_or_padded_and_keeps_its_own_tokens_only():
    clip = counting(30)[None]
    repeated, padded = frames_model(), frames_model(short_audio="pad")
    whole = torch.cat([torch.arange(30.0), torch.arange(30.0), torch.arange(20.0)])
    assert repeated(clip).pooler_output[0, 0].item() == pytest.approx(whole.mean().item())
    assert padded(clip).pooler_output[0, 0].item() == pytest.approx(sum(range(30)) / 80)
    assert repeated.windows == [((1, 80, 3), [30])]
    assert repeated(clip).last_hidden_state.shape == (1, 7, 3)  # of 30 frames; the eighth token has its middle behind
    assert frames_model()(counting(1)[None]).last_hidden_state.shape == (1, 1, 3)


def test_work_grows_with_the_length_and_not_with_its_square(monkeypatch):
    monkeypatch.setattr(windowed_slap, "INFERENCE_WINDOWS", 5)
    model = frames_model()
    with torch.no_grad():
        model(counting(8_000)[None])
    shapes = [shape for shape, _ in model.windows]
    assert max(windows for windows, *_ in shapes) == 5  # memory is bounded
    heard = sum(windows * frames for windows, frames, _ in shapes)
    assert 8_000 <= heard < 8_000 * 80 / 64 + 2 * 80


def test_what_it_cannot_do_is_refused():
    model, clip = frames_model(), counting(80)[None]
    with pytest.raises(ValueError, match="masked_weight=0"):
        model(clip, patch_mask=torch.zeros(80, dtype=torch.bool))
    with pytest.raises(ValueError, match="hidden states"):
        model(clip, output_hidden_states=True)
    with pytest.raises(ValueError, match="right padding"):
        model(clip, torch.tensor([[0] * 40 + [1] * 40]))
    with pytest.raises(ValueError, match="must end in 3 mel bins"):
        model(torch.zeros(1, 80, 4))
    with pytest.raises(NotImplementedError, match="SlapWindowedAudioModel must define encode"):
        SlapWindowedAudioModel(SlapWindowedAudioConfig()).encode(torch.zeros(1, 80, 64), torch.tensor([80]))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"short_audio": "loop"}, "accepted are"),
        ({"window_overlap_seconds": 0.8}, "must be less than max_audio_seconds"),
        ({"max_audio_seconds": 0.0}, "must be positive"),
        ({"front_end": {"sampling_rate": 16_000, "hop_length": 320}}, "front_end makes 50 frames per second"),
        ({"front_end": {"window_seconds": 7.0}}, "fills clips up to window_seconds=7.0"),
        ({"max_seconds": 3.0}, "unknown keys"),
    ],
)
def test_values_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(Exception, match=message):  # transformers wraps some in its own
        frames_model(**changes)


def test_the_feature_extractor_is_the_one_of_the_configuration():
    front_end = {"sampling_rate": 8_000, "hop_length": 80, "win_length": 200, "n_fft": 256, "mel_high_hz": 4_000.0}
    extractor = SlapFeatureExtractor.for_audio_config(FramesConfig(num_mel_bins=20, front_end=front_end))
    assert (extractor.feature_size, extractor.sampling_rate, extractor.patch_frames) == (20, 8_000, 1)


@pytest.mark.parametrize("seconds", [2.3, 4.1, 8.2, 10.2])
def test_a_clip_of_the_longest_length_is_one_window(seconds):
    config = SlapWindowedAudioConfig(max_audio_seconds=seconds)
    frames = SlapFeatureExtractor().num_frames(round(seconds * 16_000))
    assert config.window_frames == frames
