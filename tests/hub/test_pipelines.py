"""transformers' zero-shot pipeline works untouched; captions and embeddings have pipelines of our own."""

import io
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from loopback_hub import LoopbackHub
from transformers import GenerationConfig, pipeline
from transformers.pipelines import PIPELINE_REGISTRY

import hf_slap

LABELS = ["dog", "rain on a roof", "hammer"]


@pytest.fixture(scope="module")
def caption(tiny_folder):
    return pipeline("audio-captioning", model=str(tiny_folder))


@pytest.fixture(scope="module")
def embed(tiny_folder):
    return pipeline("audio-feature-extraction", model=str(tiny_folder))


@pytest.fixture(scope="module")
def waveforms(real_clips, tiny_processor) -> list[np.ndarray]:
    """Seven real clips of unequal length, 16 kHz."""
    return [tiny_processor.feature_extractor.load(clip) for clip in real_clips]


def audio_decoder(waveform: np.ndarray):
    """torchcodec's decoder, as `datasets` gives it; skipped where torchcodec or the FFmpeg it needs is missing."""
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchcodec does not load here: {str(error)[:80]}")
    return AudioDecoder(wav(waveform))


def wav(waveform: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, 16_000, format="WAV", subtype="FLOAT")
    return file.getvalue()


def test_both_tasks_are_registered():
    supported = PIPELINE_REGISTRY.supported_tasks
    assert supported["audio-captioning"]["impl"] is hf_slap.AudioCaptioningPipeline
    assert supported["audio-feature-extraction"]["impl"] is hf_slap.AudioEmbeddingPipeline


def test_zero_shot_classification_is_the_stock_pipeline_and_batches(tiny_folder, waveforms):
    classify = pipeline("zero-shot-audio-classification", model=str(tiny_folder))
    assert type(classify).__module__.startswith("transformers.")
    alone = [classify(waveform, candidate_labels=LABELS) for waveform in waveforms]
    batched = classify(waveforms, candidate_labels=LABELS, batch_size=3)
    for one, other in zip(alone, batched, strict=True):
        assert [answer["label"] for answer in one] == [answer["label"] for answer in other]
        assert sum(answer["score"] for answer in one) == pytest.approx(1)
        assert [answer["score"] for answer in one] == pytest.approx([answer["score"] for answer in other], abs=1e-6)


def test_zero_shot_scores_are_the_softmax_of_the_models_logits(tiny_folder, tiny_processor, waveforms):
    classify = pipeline("zero-shot-audio-classification", model=str(tiny_folder))
    answers = classify(waveforms[0], candidate_labels=LABELS, hypothesis_template="{}")
    inputs = tiny_processor(text=LABELS, audio=waveforms[0], sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        scores = hf_slap.SlapModel.from_pretrained(tiny_folder)(**inputs).logits_per_audio[0].softmax(0)
    expected = dict(zip(LABELS, scores.tolist(), strict=True))
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_captions_of_a_batch_are_those_of_each_clip_alone(caption, waveforms, settings):
    say = partial(caption, sampling_rate=16_000, generate_kwargs=settings)
    alone = [say(waveform) for waveform in waveforms]
    assert say(waveforms, batch_size=3) == alone
    assert list(say(waveform for waveform in waveforms)) == alone
    assert len({clip[0]["generated_text"] for clip in alone}) > 1  # the clips are heard


def test_embeddings_are_the_models_unit_norm_and_batch(embed, tiny_processor, waveforms):
    alone = [embed(waveform, sampling_rate=16_000) for waveform in waveforms]
    batched = embed(waveforms, sampling_rate=16_000, batch_size=3, return_tensors=True)
    features = tiny_processor.feature_extractor(waveforms, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = embed.model.get_audio_features(**features).pooler_output
    torch.testing.assert_close(torch.tensor(alone), expected)
    torch.testing.assert_close(torch.stack(batched), expected)
    assert np.linalg.norm(alone, axis=1) == pytest.approx(1)


@pytest.mark.parametrize(
    "form",
    [
        lambda waveform: wav(waveform),
        lambda waveform: {"array": waveform, "sampling_rate": 16_000},
        lambda waveform: {"bytes": wav(waveform), "path": None},
        lambda waveform: torch.from_numpy(waveform),
        lambda waveform: np.stack([waveform, waveform]),
        lambda waveform: [waveform],
        audio_decoder,
    ],
    ids=["bytes", "array and rate", "bytes and path", "tensor", "stereo", "list", "AudioDecoder"],
)
def test_every_form_of_a_clip_gives_the_same(caption, embed, waveforms, form):
    clip = form(waveforms[1])
    carries_its_rate = not isinstance(clip, np.ndarray | torch.Tensor | list)
    rate = {} if carries_its_rate else {"sampling_rate": 16_000}
    many = isinstance(clip, list)
    embedding = embed(clip, **rate)
    words = caption(clip, **rate)
    assert (embedding[0] if many else embedding) == pytest.approx(embed(waveforms[1], sampling_rate=16_000), abs=1e-6)
    assert (words[0] if many else words) == caption(waveforms[1], sampling_rate=16_000)


def test_paths_and_addresses_are_read(embed, waveforms, tmp_path):
    expected = embed(waveforms[1], sampling_rate=16_000)
    file = tmp_path / "clip.wav"
    file.write_bytes(wav(waveforms[1]))
    with LoopbackHub() as hub:
        hub.repositories["models/org/sounds"] = []
        hub.commit("models/org/sounds", {"clip.wav": file.read_bytes()})
        for source in (file, str(file), f"{hub.url}/org/sounds/resolve/main/clip.wav"):
            assert embed(source) == expected


def test_several_captions_of_a_clip(caption, waveforms):
    say = partial(caption, sampling_rate=16_000, num_beams=4, num_return_sequences=3)
    several = say(waveforms[0])
    assert len({answer["generated_text"] for answer in several}) == 3
    assert say(waveforms[:2], batch_size=2)[0] == several


def test_a_caption_ends_by_itself_or_where_it_is_told_to(caption, waveforms, tiny_config):
    def tokens(**settings) -> int:
        features = caption.preprocess(waveforms[0], sampling_rate=16_000)
        return caption.forward(features, **settings)["tokens"].shape[-1]

    assert 20 != tokens() <= tiny_config.decoder_config.max_position_embeddings  # 20 is what generate() presumes
    assert tokens(max_new_tokens=4) == 5  # with the start token
    assert tokens(generation_config=GenerationConfig(max_length=6, pad_token_id=0, decoder_start_token_id=1)) == 6


def test_settings_of_the_pipeline_hold_until_a_call_says_otherwise(tiny_folder, waveforms):
    half_rate = waveforms[0][::2]
    embed = pipeline("audio-feature-extraction", model=str(tiny_folder), sampling_rate=8_000, resample=True)
    given_at_call = pipeline("audio-feature-extraction", model=str(tiny_folder))
    assert embed(half_rate) == given_at_call(half_rate, sampling_rate=8_000, resample=True)
    assert embed(waveforms[0], sampling_rate=16_000) == given_at_call(waveforms[0], sampling_rate=16_000)


def test_nothing_in_nothing_out(caption, embed):
    assert caption([]) == embed([]) == []


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "sampling_rate"),
        ({"sampling_rate": 44_100}, "44100 Hz"),
        ({"sampling_rate": 16_000, "num_beam": 3}, "num_beam"),
        ({"sampling_rate": 16_000, "num_beams": 3, "generate_kwargs": {"num_beams": 3}}, "num_beams.* give each once"),
    ],
)
def test_what_cannot_be_right_is_refused(caption, waveforms, keywords, message):
    with pytest.raises(ValueError, match=message):
        caption(waveforms[0], **keywords)


def test_pipelines_saved_by_transformers_load_again(caption, waveforms, tmp_path):
    caption.save_pretrained(tmp_path)
    again = pipeline("audio-captioning", model=str(tmp_path))
    assert again(waveforms[0], sampling_rate=16_000) == caption(waveforms[0], sampling_rate=16_000)
    assert (tmp_path / "pipeline_slap.py").is_file()
