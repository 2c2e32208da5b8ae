"""Labels and captions of sounds of any length; for a short clip exactly what the stock pipelines say."""

import numpy as np
import pytest
import torch
from transformers import pipeline

import hf_slap
from hf_slap.listening import Labels
from hf_slap.presence import presence

LABELS = ["dog", "rain on a roof", "hammer", "a"]


@pytest.fixture(scope="module")
def listener(tiny_folder) -> hf_slap.Listener:
    return hf_slap.Listener(tiny_folder)


@pytest.fixture(scope="module")
def waves(tiny_processor, real_clips) -> list[np.ndarray]:
    return [tiny_processor.feature_extractor.load(clip) for clip in real_clips[:3]]


@pytest.fixture(scope="module")
def long_wave(waves) -> np.ndarray:
    """75 s: three windows of the tiny model."""
    return np.resize(np.concatenate(waves), 75 * 16_000)


def scores(answer: list[dict]) -> dict[str, float]:
    return {row["label"]: row["score"] for row in answer}


def test_short_clips_get_what_the_stock_pipeline_gives(listener, tiny_folder, waves):
    stock = pipeline("zero-shot-audio-classification", model=str(tiny_folder))
    for template in ({}, {"hypothesis_template": "a {}"}):
        expected = stock(waves, candidate_labels=LABELS, **template)
        ours = {"template": template["hypothesis_template"]} if template else {}
        found = listener.classify(waves, LABELS, sampling_rate=16_000, **ours)
        for one, other in zip(found, expected, strict=True):
            assert [row["label"] for row in one] == [row["label"] for row in other]
            assert scores(one) == pytest.approx(scores(other), abs=1e-6)


def test_a_sigmoid_model_competes_with_its_bias_too(listener):
    audio, labels = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[:2]
    with_bias = Labels(["x", "y"], labels, scale=2.0, bias=-10.0)
    np.testing.assert_allclose(with_bias.scores(audio)[0], [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))], rtol=1e-6)


def test_one_sound_a_list_and_an_iterator_come_back_as_they_were_given(listener, waves):
    one = listener.classify(waves[0], LABELS, sampling_rate=16_000)
    listed = listener.classify(waves[:2], LABELS, sampling_rate=16_000)
    lazy = listener.classify(iter(waves[:2]), LABELS, sampling_rate=16_000)
    assert scores(listed[0]) == pytest.approx(scores(one), abs=1e-5)
    assert next(lazy) == listed[0] and listener.classify([], LABELS) == []


def test_top_k_are_the_best_of_all(listener, waves):
    every = listener.classify(waves[0], LABELS, sampling_rate=16_000)
    assert listener.classify(waves[0], LABELS, top_k=2, sampling_rate=16_000) == every[:2]
    assert [row["score"] for row in every] == sorted((row["score"] for row in every), reverse=True)


def test_several_labels_are_judged_each_by_itself(listener, waves):
    few = scores(listener.classify(waves[0], LABELS[:1], multi_label=True, sampling_rate=16_000))
    many = scores(listener.classify(waves[0], LABELS, multi_label=True, sampling_rate=16_000))
    assert many["dog"] == pytest.approx(few["dog"], abs=1e-6)  # whatever other labels there are
    known = listener.labels(LABELS, multi_label=True)
    clip = next(listener.embed([("x", {"array": waves[0], "sampling_rate": 16_000})]))
    expected = presence(clip.embedding[None], known.embeds, known.background, known.scale)[0]
    assert [many[label] for label in LABELS] == pytest.approx(expected, abs=1e-6)


def test_an_ensemble_is_the_mean_of_unit_vectors_and_an_ensemble_of_one_is_itself(listener):
    each = [listener.labels(LABELS, template).embeds for template in ("a {}", "the {}")]
    together = listener.labels(LABELS, ["a {}", "the {}"])
    mean = (each[0] + each[1]) / 2
    np.testing.assert_allclose(together.embeds, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)
    assert listener.labels(LABELS, ["a {}"]).embeds.tobytes() == each[0].tobytes()


def test_texts_are_computed_once(listener, monkeypatch):
    listener.labels(["a new one"])
    calls = []
    monkeypatch.setattr(listener.model, "get_text_features", lambda **inputs: calls.append(inputs))
    listener.labels(["a new one"])
    assert calls == []


def test_a_long_recording_is_heard_as_the_model_hears_it_whole(listener, long_wave):
    features = listener.processor.feature_extractor([long_wave], sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        whole = listener.model.get_audio_features(**features).pooler_output.numpy()
    known = listener.labels(LABELS)
    expected = dict(zip(LABELS, known.scores(whole)[0].tolist(), strict=True))
    assert scores(listener.classify(long_wave, LABELS, sampling_rate=16_000)) == pytest.approx(expected, abs=1e-5)


def test_anywhere_takes_the_best_window_of_each_label(listener, long_wave):
    sound = {"array": long_wave, "sampling_rate": 16_000}
    [clip] = listener.embed([("x", sound)], each_window=True)
    assert len(clip.embedding) == 3
    expected = dict(zip(LABELS, listener.labels(LABELS).scores(clip.embedding).max(0).tolist(), strict=True))
    assert scores(listener.classify(sound, LABELS, anywhere=True)) == pytest.approx(expected, abs=1e-6)


def test_a_short_clip_has_the_caption_of_the_pipeline(listener, tiny_folder, waves):
    stock = pipeline("audio-captioning", model=str(tiny_folder))
    for wave, captions in zip(waves, listener.caption(waves, sampling_rate=16_000, max_new_tokens=7), strict=True):
        [written] = stock(wave, sampling_rate=16_000, max_new_tokens=7)
        assert captions == [(0.0, len(wave) / 16_000, written["generated_text"])]


def test_a_long_recording_has_a_caption_for_each_piece_and_none_for_a_short_rest(listener, long_wave):
    wave = long_wave[: 20 * 16_000 + 8_000]
    captions = listener.caption(wave, seconds=10, sampling_rate=16_000, max_new_tokens=5)
    assert [(one.start, one.end) for one in captions] == [(0.0, 10.0), (10.0, 20.5)]
    expected = listener.write([wave[:160_000], wave[160_000:]], max_new_tokens=5)
    assert [one.text for one in captions] == expected


def test_broken_sounds_come_with_their_reason_or_as_an_error(listener, waves):
    sounds = [("good", {"array": waves[0], "sampling_rate": 16_000}), ("bad", b"no sound"), ("last", {"array": waves[1], "sampling_rate": 16_000})]  # fmt: skip
    assert [(clip.id, clip.reason is None) for clip in listener.embed(sounds)] == [
        ("good", True),
        ("bad", False),
        ("last", True),
    ]
    written = list(listener.caption_each(sounds, max_new_tokens=3))
    assert [(name, len(captions), reason is None) for name, captions, reason in written] == [("good", 1, True), ("bad", 0, False), ("last", 1, True)]  # fmt: skip
    for ask in (lambda: listener.classify(b"no sound", LABELS), lambda: listener.caption(b"no sound")):
        with pytest.raises(hf_slap.AudioError, match="broken"):
            ask()


def test_settings_that_cannot_be_meant_are_refused(listener, waves):
    for keywords in ({"labels": []}, {"labels": ["a"], "template": "no place"}, {"labels": ["a"], "template": []}):
        with pytest.raises(ValueError):
            listener.classify(waves[0], **keywords)
    with pytest.raises(ValueError, match="seconds=0.5 must be at least 1"):
        listener.caption(waves[0], seconds=0.5, sampling_rate=16_000)


def test_open_models_serve_too_and_others_say_what_they_lack(tiny_folder, tiny_processor, listener, waves):
    model = hf_slap.SlapForPreTraining.from_pretrained(tiny_folder)
    opened = hf_slap.Listener(model, tiny_processor)
    expected = listener.classify(waves[0], LABELS, sampling_rate=16_000)
    assert scores(opened.classify(waves[0], LABELS, sampling_rate=16_000)) == pytest.approx(scores(expected), abs=1e-6)
    with pytest.raises(ValueError, match="without its processor"):
        hf_slap.Listener(model)
    with pytest.raises(ValueError, match="has no text side"):
        hf_slap.Listener(hf_slap.SlapAudioModelWithProjection.from_pretrained(tiny_folder), tiny_processor)
