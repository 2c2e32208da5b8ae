"""Models of other makers, and what a listener keeps."""

import numpy as np
import pytest
import torch
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

import hf_slap
from hf_slap.evaluation.listeners import open_listener
from hf_slap.evaluation.sets import open_clips
from hf_slap.evaluation.suites import SUITES

QUICK = {task.name: task for task in SUITES["quick"]}
WIDTH = 32


class ClapLikeProcessor:
    """What `ClapProcessor` does, with a tokenizer that need not be RoBERTa's."""

    def __init__(self, tokenizer, truncation: str):
        self.tokenizer = tokenizer
        self.feature_extractor = ClapFeatureExtractor(
            feature_size=16, sampling_rate=48_000, hop_length=480, max_length_s=1, truncation=truncation,
            padding="repeatpad",
        )  # fmt: skip

    def __call__(self, text, **keywords):
        return self.tokenizer(text, return_token_type_ids=False, **keywords)


@pytest.fixture(scope="module")
def clap(tiny_processor):
    """A small untrained ClapModel."""
    audio = {
        "spec_size": 64, "num_mel_bins": 16, "patch_size": 2, "patch_stride": 2, "window_size": 4, "freq_ratio": 4,
        "depths": [1, 1], "num_hidden_layers": 2, "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 16,
        "hidden_size": WIDTH, "projection_dim": WIDTH, "enable_fusion": False,
    }  # fmt: skip
    text = {
        "vocab_size": len(tiny_processor.tokenizer), "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 37, "max_position_embeddings": 64, "projection_dim": WIDTH,
    }  # fmt: skip
    torch.manual_seed(0)
    return ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=WIDTH)).eval()


def test_claps_are_judged_and_repeat_themselves(clap, tiny_processor, small_corpora, tmp_path):
    processor = ClapLikeProcessor(tiny_processor.tokenizer, "rand_trunc")
    tasks = ["heldout-zero-shot", "heldout-linear-probe", "heldout-attention-probe", "scenes-localisation"]
    runs = [
        hf_slap.evaluate(clap, processor, tasks=tasks, data=small_corpora, output=tmp_path / part, progress=False)
        for part in ("one", "two")
    ]
    for results in runs:
        assert "rand_trunc, 1 s" in results.scores["heldout-zero-shot"]["long_clips"]
        assert "no dense features" in results.scores["heldout-linear-probe"]["features"]
        assert results.scores["heldout-attention-probe"]["status"] == "not measured"
        assert "cannot say when" in results.scores["scenes-localisation"]["reason"]
    np.random.seed(5)  # the crop of a clip over 1 s does not follow the world's random numbers
    task = QUICK["heldout-zero-shot"]
    clips = open_clips(task.data, "test", task, small_corpora, False)
    heard = [
        open_listener(clap, processor, cache=tmp_path / part, progress=False).embed_clips(clips).values
        for part in ("one", "three")
    ]
    assert max(clips_seconds(small_corpora)) > 1
    np.testing.assert_array_equal(*(np.stack(list(values)) for values in heard))


def clips_seconds(small_corpora) -> list[float]:
    from hf_slap.data import load_corpus

    return load_corpus(small_corpora["shipped_heldout"])["duration"]


def test_sentence_transformers_loads_slap_and_scores_the_same(tiny_folder, small_corpora, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(tiny_folder), device="cpu")
    keywords = {"tasks": ["heldout-zero-shot", "heldout-retrieval"], "data": small_corpora, "progress": False}
    theirs = hf_slap.evaluate(model, output=tmp_path / "st", name="st", **keywords)
    ours = hf_slap.evaluate(tiny_folder, output=tmp_path / "slap", **keywords)
    for name in keywords["tasks"]:
        assert theirs.scores[name]["value"] == ours.scores[name]["value"]


def test_dense_features_are_those_of_the_model_and_moments_have_unit_length(tiny_folder, small_corpora, tmp_path):
    listener = open_listener(tiny_folder, cache=tmp_path, progress=False)
    task = QUICK["scenes-localisation"]
    clips = open_clips(task.data, "test", task, small_corpora, False)
    frames, moments = listener.frames(clips), listener.local_embeds(clips)
    inputs = listener.processor.feature_extractor([clips.data[0]["audio"]], return_tensors="pt")
    with torch.no_grad():
        output = listener.model.audio_model(**inputs)
    rows = listener.model.config.audio_config.patch_rows
    expected = output.last_hidden_state[0].unflatten(0, (-1, rows)).mean(1).numpy()
    np.testing.assert_allclose(frames.values[0], expected, atol=2e-3)  # half precision
    assert len(moments.values[0]) == len(expected) and listener.seconds_per_frame() == pytest.approx(0.16)
    np.testing.assert_allclose(np.linalg.norm(moments.values[0], axis=1), 1, atol=1e-5)

    # a moment is pooled from the columns around it: all of a clip that is as short as that
    short = listener.model.audio_model.pooler(output.last_hidden_state[:, : 4 * rows], None)
    near = torch.nn.functional.normalize(listener.model.audio_projection(short), dim=-1)[0]
    np.testing.assert_allclose(moments.values[0][0], near.detach().numpy(), atol=1e-5)


def test_a_broken_clip_is_left_out_by_name(tiny_folder, real_clips, tmp_path):
    from datasets import Audio, Dataset

    rows = {
        "id": ["fine", "broken", "fine again"],
        "audio": [real_clips[0], {"bytes": b"RIFF nothing", "path": "x.wav"}, real_clips[0]],
        "label": ["dog", "rain", "dog"],
        "duration": [1.0, 1.0, 1.0],
    }
    data = {"ravdess": Dataset.from_dict(rows).cast_column("audio", Audio(decode=False))}
    results = hf_slap.evaluate(tiny_folder, tasks=["ravdess-zero-shot"], data=data, output=tmp_path, progress=False)
    score = results.scores["ravdess-zero-shot"]
    assert score["clips"] == 2 and [clip for clip, _ in score["left_out"]] == ["broken"]
    assert any("1 of 3 clips could not be heard" in note for note in score["notes"])
