"""Models of other makers, models of SLAP that lack a part, and what a listener keeps."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForPreTraining,
    AutoProcessor,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
)

import hf_slap
from hf_slap.evaluation import listeners
from hf_slap.evaluation.listeners import open_listener
from hf_slap.evaluation.sets import NotMeasured, open_clips
from hf_slap.evaluation.suites import SUITES
from hf_slap.modeling.clapcap_slap import SlapForPrefixCaptioning, SlapPrefixConfig

QUICK = {task.name: task for task in SUITES["quick"]}
WIDTH = 32
STARTS = {"decoder_start_token_id": 2, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}  # of slap-nano


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


@pytest.fixture(scope="module")
def nano() -> str:
    return hf_slap.bundled("slap-nano")


@pytest.fixture(scope="module")
def nano_processor(nano):
    return AutoProcessor.from_pretrained(nano)


@pytest.fixture
def other_writer(nano, tmp_path) -> Path:
    """slap-nano with the words of its caption decoder changed about: both encoders stay as they are."""
    folder = Path(shutil.copytree(nano, tmp_path / "other-writer"))
    weights = load_file(folder / "model.safetensors")
    for name in ("lm_head.weight", "decoder.embed_tokens.weight"):
        if name in weights:
            weights[name] = weights[name].roll(1, 0)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def heldout(small_corpora):
    task = QUICK["heldout-zero-shot"]
    return open_clips(task.data, "test", task, small_corpora, False)


def test_captions_are_of_the_captioner_that_is_there(nano, other_writer, heldout, tmp_path):
    first, second = (open_listener(place, cache=tmp_path, progress=False) for place in (nano, other_writer))
    assert first.weights == second.weights and first.made_of("zero_shot") == second.made_of("zero_shot")
    assert first.made_of("captioning") != second.made_of("captioning")
    assert first.captions(heldout)[0] != second.captions(heldout)[0]

    (other_writer / "generation_config.json").write_text(json.dumps({**STARTS, "max_new_tokens": 2}))
    brief = open_listener(other_writer, cache=tmp_path, progress=False)
    assert brief.made_of("captioning") != second.made_of("captioning")
    assert max(len(caption.split()) for caption in brief.captions(heldout)[0]) <= 2

    rules = json.loads((other_writer / "tokenizer.json").read_text())
    rules["normalizer"] = {"type": "Lowercase"}
    (other_writer / "tokenizer.json").write_text(json.dumps(rules))
    lower = open_listener(other_writer, cache=tmp_path, progress=False)
    before = first.made_of("zero_shot")
    first.embed_texts(["a dog", "rain on a roof"])  # which sets padding and truncation
    again = open_listener(first.model, first.processor, cache=tmp_path, progress=False)
    assert again.made_of("zero_shot") == before != lower.made_of("zero_shot")
    assert lower.weights == first.weights


def test_a_captioning_task_is_measured_again_for_another_captioner(nano, other_writer, small_corpora, tmp_path):
    pytest.importorskip("pycocoevalcap")
    keywords = {"tasks": ["heldout-captioning"], "data": small_corpora, "progress": False, "name": "nano"}
    first, second = (
        hf_slap.evaluate(place, output=tmp_path, **keywords).scores["heldout-captioning"]
        for place in (nano, other_writer)
    )
    assert first["value"] != second["value"] and first["model"]["weights"] == second["model"]["weights"]
    assert first["model"]["captioner"] != second["model"]["captioner"]


def test_a_model_in_memory_is_captioned_by_itself_or_not_at_all(nano, nano_processor, heldout, tmp_path):
    changed = AutoModel.from_pretrained(nano)
    next(changed.audio_model.parameters()).data += 1
    with pytest.raises(NotMeasured, match="has other weights than"):
        open_listener(changed, nano_processor, cache=tmp_path, progress=False).captions(heldout)

    whole = AutoModelForPreTraining.from_pretrained(nano)
    folder, same = (open_listener(m, nano_processor, cache=tmp_path, progress=False) for m in (nano, whole))
    assert folder.captions(heldout)[0] == same.captions(heldout)[0] and folder.weights == same.weights
    whole.lm_head.weight.data = whole.lm_head.weight.data.roll(1, 0)
    other = open_listener(whole, nano_processor, cache=tmp_path, progress=False)
    assert other.captions(heldout)[0] != same.captions(heldout)[0]


def test_the_captioner_is_read_at_the_revision_of_the_model(nano, tmp_path, monkeypatch):
    asked = []
    read = listeners.open_captioner
    monkeypatch.setattr(listeners, "open_captioner", lambda *given: asked.append(given[3]) or read(*given))
    open_listener(nano, revision="v1", cache=tmp_path, progress=False).made_of("captioning")
    assert asked == ["v1"]


@pytest.mark.parametrize("kind", ["classifier", "audio encoder"])
def test_a_folder_without_a_text_side_serves_probes_alone(kind, nano, nano_processor, small_corpora, tmp_path):
    folder = tmp_path / "model"
    if kind == "classifier":
        AutoModelForAudioClassification.from_pretrained(nano, num_labels=3).save_pretrained(folder)
        nano_processor.save_pretrained(folder)
    else:
        AutoModel.from_pretrained(nano).audio_model.save_pretrained(folder)
        nano_processor.feature_extractor.save_pretrained(folder)
    hashes = {open_listener(folder, cache=tmp_path, progress=False).weights for _ in range(2)}
    assert len(hashes) == 1
    tasks = ["heldout-zero-shot", "heldout-retrieval", "scenes-localisation", "heldout-captioning", "heldout-knn"]
    keywords = {"data": small_corpora, "output": tmp_path, "progress": False}
    scores = hf_slap.evaluate(folder, tasks=tasks, **keywords).scores
    whole = hf_slap.evaluate(nano, tasks=["heldout-knn"], **keywords).scores
    assert scores["heldout-knn"]["value"] == whole["heldout-knn"]["value"]
    assert all("has no text side" in scores[task]["reason"] for task in tasks[:3])
    assert "writes no captions" in scores["heldout-captioning"]["reason"]


def test_a_folder_without_its_audio_encoder_is_refused(nano, tmp_path):
    folder = Path(shutil.copytree(nano, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "audio_model.layers.0" not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks weights of its audio encoder"):
        open_listener(folder, cache=tmp_path, progress=False)


def test_how_long_clips_are_heard_is_said_and_repeats_itself(nano, nano_processor, heldout, small_corpora, tmp_path):
    def listener(part: str, **settings):
        extractor = hf_slap.SlapFeatureExtractor.from_pretrained(nano, window_seconds=0.5, **settings)
        processor = hf_slap.SlapProcessor(extractor, nano_processor.tokenizer)
        return open_listener(AutoModel.from_pretrained(nano), processor, cache=tmp_path / part, progress=False)

    assert "the middle 0.5 s" in listener("middle", long_audio="center").long_clips
    runs = []
    for seed in (1, 2):
        random.seed(seed)
        it = listener(str(seed), compat=True)
        assert "a part of 0.5 s alone, drawn with a seed" in it.long_clips
        wave = it.hear(heldout.data[0]["audio"])
        runs.append([*it.embed_clips(heldout).values, *it.frames(heldout).values, it.embed_waves([wave])[0]])
    assert max(clips_seconds(small_corpora)) > 0.5
    for one, two in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(runs[0][0], runs[0][-1], atol=1e-5)  # the same part, however it is asked for


def test_a_captioner_with_a_prefix_serves_captions_and_probes(nano, nano_processor, small_corpora, tmp_path):
    pytest.importorskip("pycocoevalcap")
    of_nano = json.loads(Path(nano, "config.json").read_text())
    text = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    torch.manual_seed(0)
    config = SlapPrefixConfig(
        audio_config=of_nano["audio_config"], projection_dim=of_nano["projection_dim"], prefix_tokens=4,
        text_config={**text, "vocab_size": len(nano_processor.tokenizer)}, projected_tokens=4, mapper_layers=1,
        mapper_heads=2, max_caption_tokens=8, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    SlapForPrefixCaptioning(config).save_pretrained(tmp_path / "writer")
    nano_processor.save_pretrained(tmp_path / "writer")
    tasks = ["heldout-captioning", "heldout-knn", "heldout-zero-shot", "heldout-retrieval"]
    scores = hf_slap.evaluate(
        tmp_path / "writer", tasks=tasks, data=small_corpora, output=tmp_path, progress=False
    ).scores  # fmt: skip
    assert [scores[task]["status"] for task in tasks] == ["measured"] * 2 + ["not measured"] * 2
    assert scores["heldout-captioning"]["model"]["class"] == "SlapForPrefixCaptioning"
    assert "has no text side" in scores["heldout-retrieval"]["reason"]
