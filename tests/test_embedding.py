"""Embedding many clips: what the model says of each alone, in order, resumable, in bounded memory."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch

import hf_slap
from hf_slap import embedding
from hf_slap.embedding import embed

RATE = 16_000
ROOT = Path(__file__).parents[1]
EXTRACTOR = hf_slap.SlapFeatureExtractor()


@pytest.fixture(scope="module")
def model(tiny_folder) -> hf_slap.SlapModel:
    return hf_slap.SlapModel.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def folder(real_clips, tmp_path_factory) -> Path:
    """Seven real clips: five in the folder, two below it, and a text file."""
    path = tmp_path_factory.mktemp("sounds")
    (path / "below").mkdir()
    for number, clip in enumerate(real_clips):
        name = f"below/{number}.OGG" if number > 4 else f"{number}.ogg"
        (path / name).write_bytes(clip["bytes"])
    (path / "notes.txt").write_text("no sound")
    return path


@pytest.fixture(scope="module")
def long_wave(real_clips) -> np.ndarray:
    """100 s of real sound: four windows."""
    return np.resize(np.concatenate([EXTRACTOR.load(clip) for clip in real_clips]), 100 * RATE + 77)


def alone(model, clip) -> np.ndarray:
    """The embedding of one clip, whole, in one call of the model."""
    features = EXTRACTOR([clip], return_tensors="pt")
    with torch.no_grad():
        return model.get_audio_features(**features).pooler_output[0].numpy()


def quiet(source, model, processor=EXTRACTOR, **options) -> embedding.Embeddings:
    return embed(source, model, processor, progress=False, **options)


def table(result) -> np.ndarray:
    return np.array(result.dataset["embedding"], dtype=np.float32)


# ------------------------------------------------------------------------------------------ the model's own embedding


def test_a_folder_is_embedded_as_the_model_embeds_each_clip(model, folder, real_clips):
    result = quiet(folder, model)
    names = ["0.ogg", "1.ogg", "2.ogg", "3.ogg", "4.ogg", "below/5.OGG", "below/6.OGG"]
    assert result.dataset["id"] == names and result.failed == []
    np.testing.assert_allclose(table(result), [alone(model, clip) for clip in real_clips], atol=1e-6)
    assert result.dataset["seconds"] == [len(EXTRACTOR.load(clip)) / RATE for clip in real_clips]
    np.testing.assert_allclose(np.linalg.norm(table(result), axis=1), 1, atol=1e-6)


def test_every_kind_of_source_gives_the_same(model, folder, real_clips):
    expected = table(quiet(folder, model))
    paths = [str(folder / name) for name in quiet(folder, model).dataset["id"]]
    rows = {"id": [f"clip {n}" for n in range(7)], "audio": real_clips}
    corpus = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio())
    arrays = [{"array": EXTRACTOR.load(clip), "sampling_rate": RATE} for clip in real_clips]
    numbers = [str(n) for n in range(7)]
    for source, ids in [
        (paths, paths),
        (str(folder / "**" / "*.[oO]*"), paths),
        (corpus, rows["id"]),
        (corpus.remove_columns("id"), numbers),
        (corpus.cast_column("audio", datasets.Audio(decode=False)).to_iterable_dataset(), rows["id"]),
        (arrays, numbers),
        (iter(arrays), numbers),
    ]:
        result = quiet(source, model)
        assert result.dataset["id"] == ids
        np.testing.assert_allclose(table(result), expected, atol=1e-6)


def test_a_long_clip_is_the_same_as_path_array_and_stream_and_as_the_model_has_it(model, long_wave, tmp_path):
    path = tmp_path / "long.flac"
    soundfile.write(path, np.stack([long_wave, 0.5 * long_wave], 1), 22_050)
    samples, rate = soundfile.read(path, dtype="float32")
    clips = [path, path.read_bytes(), {"array": samples, "sampling_rate": rate}]
    result = quiet(clips, model, resample=True)
    for row in table(result):
        np.testing.assert_allclose(row, alone(model, path), atol=1e-6)


def test_a_model_that_hears_clips_in_one_piece_is_given_them_so(tiny_config, long_wave):
    config = hf_slap.SlapConfig.from_dict(tiny_config.to_dict())
    config.audio_config.long_audio = "whole"
    torch.manual_seed(0)
    whole = hf_slap.SlapModel(config).eval()
    clip = {"array": long_wave, "sampling_rate": RATE}
    result = quiet([clip], whole)
    np.testing.assert_allclose(table(result)[0], alone(whole, clip), atol=1e-5)
    whole.audio_model.config.long_audio = "windows"
    assert np.abs(table(result)[0] - alone(whole, clip)).max() > 1e-4


@pytest.mark.parametrize("seconds", [0.16, 1.7, 30.0, 30.01, 56.9, 57.2, 90.0])
def test_windows_cut_from_blocks_are_those_of_the_model(seconds, model):
    config = model.config.audio_config
    frames = np.random.default_rng(0).normal(size=(int(seconds * 100), 64)).astype(np.float32)
    columns = len(frames) // 16
    expected = embedding.audio_windows(columns, config)
    for block in (7, 3000, 10**6):
        blocks = (frames[start : start + block] for start in range(0, len(frames), block))
        cut = list(embedding.cut_windows(blocks, config))
        assert [window for _, window in cut] == expected
        for window, (start, end, *_) in cut:
            np.testing.assert_array_equal(window, frames[start * 16 : end * 16])


@pytest.mark.parametrize("options", [{"batch_seconds": 0.01}, {"batch_seconds": 3}, {"workers": 1}, {"workers": 5}])
def test_batches_and_workers_change_nothing(model, real_clips, long_wave, options):
    clips = [*real_clips, {"array": long_wave, "sampling_rate": RATE}, *real_clips[:3]]
    result = quiet(clips, model, **options)
    np.testing.assert_allclose(table(result), table(quiet(clips, model)), atol=1e-6)


def test_the_model_comes_back_as_it_was_and_dropout_is_off_meanwhile(model, real_clips):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model.text_model.eval()
    quiet(real_clips, model, dtype="bfloat16")
    quiet(real_clips, model)
    assert model.training and model.audio_model.layers[0].training and not model.text_model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"dtype": torch.bfloat16}, {"int8": True}])
def test_lower_precision_stays_near_and_gives_float32(model, real_clips, options):
    result = quiet(real_clips, model, **options)
    cosine = (table(result) * [alone(model, clip) for clip in real_clips]).sum(1)
    assert (cosine > 0.98).all() and (cosine < 1 - 1e-9).any()


def test_a_folder_of_weights_is_enough_and_its_text_tower_is_not_loaded(model, tiny_folder, real_clips, monkeypatch):
    monkeypatch.setattr(hf_slap.SlapModel, "__init__", lambda *_: pytest.fail("the whole model was built"))
    result = embed(real_clips, tiny_folder, progress=False)
    monkeypatch.undo()
    np.testing.assert_allclose(table(result), table(quiet(real_clips, model)), atol=1e-6)


# ------------------------------------------------------------------------------------------ what goes wrong


def test_what_cannot_be_heard_is_listed_and_the_rest_embedded(model, real_clips, long_wave, tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir(), bad.mkdir()
    (good / "a.ogg").write_bytes(real_clips[0]["bytes"])
    (good / "z.ogg").write_bytes(real_clips[1]["bytes"])
    (bad / "zero.wav").touch()
    (bad / "text.mp3").write_text("a dog barks " * 99)
    soundfile.write(bad / "short.wav", np.zeros(2399), RATE)
    soundfile.write(bad / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    soundfile.write(bad / "cut.flac", long_wave, RATE)  # breaks off after windows of it were embedded
    whole = (bad / "cut.flac").read_bytes()
    (bad / "cut.flac").write_bytes(whole[: len(whole) * 9 // 10])
    names = ["cut.flac", "gone.wav", "nan.wav", "short.wav", "text.mp3", "zero.wav"]
    reasons = ["cut short|broken", "no such file", "NaN", "too short", "text.mp3", "zero bytes"]

    paths = [good / "a.ogg", *(bad / name for name in names), good / "z.ogg"]
    result = quiet(paths, model, output=tmp_path / "out", batch_seconds=20)
    assert result.dataset["id"] == [str(paths[0]), str(paths[-1])]
    np.testing.assert_allclose(table(result), [alone(model, clip) for clip in real_clips[:2]], atol=1e-6)
    assert [clip for clip, _ in result.failed] == [str(path) for path in paths[1:-1]]
    for (_, reason), expected in zip(result.failed, reasons, strict=True):
        assert any(word in reason for word in expected.split("|")), reason
    listed = [json.loads(line) for line in (tmp_path / "out" / "failed.jsonl").read_text().splitlines()]
    assert [(line["id"], line["reason"]) for line in listed] == result.failed
    assert "embedded 2 clips" in result.summary and "6 failed" in result.summary and "failed.jsonl" in result.summary


def test_when_nothing_can_be_heard_the_result_is_empty_and_says_why(model, tmp_path):
    result = quiet([b"", np.zeros(RATE)], model)
    assert len(result.dataset) == 0 and [clip for clip, _ in result.failed] == ["0", "1"]
    assert "clip '0' is empty" in result.failed[0][1] and "sampling_rate" in result.failed[1][1]
    result.to_npy(tmp_path)
    assert np.load(tmp_path / "embeddings.npy").shape == (0, 11)


def test_an_error_of_the_source_ends_the_run_and_its_threads(model, real_clips):
    def source():
        yield from real_clips
        raise KeyError("the source broke")

    before = threading.active_count()
    with pytest.raises(KeyError, match="the source broke"):
        quiet(source(), model)
    assert threading.active_count() == before


def test_what_is_no_source_is_refused(model, tmp_path, real_clips):
    with pytest.raises(FileNotFoundError, match="no sound file in folder"):
        quiet(tmp_path, model)
    with pytest.raises(FileNotFoundError, match="no file, folder or glob"):
        quiet(tmp_path / "*.wav", model)
    for single in (real_clips[0], np.zeros(RATE), b"RIFF", 5):
        with pytest.raises(ValueError, match="into a list"):
            quiet(single, model)
    twice = [{"id": "a", **real_clips[0]}, {"id": "b", **real_clips[1]}, {"id": "a", **real_clips[2]}]
    for source in (twice, iter(twice)):
        with pytest.raises(ValueError, match="id 'a' comes twice"):
            quiet(source, model)


def test_arguments_that_make_no_sense_are_refused(model, tiny_folder, real_clips, tmp_path):
    with pytest.raises(ValueError, match="batch_seconds=0"):
        quiet(real_clips, model, batch_seconds=0)
    with pytest.raises(ValueError, match="workers=0"):
        quiet(real_clips, model, workers=0)
    with pytest.raises(ValueError, match="dtype='int4'.*bfloat16"):
        quiet(real_clips, model, dtype="int4")
    with pytest.raises(ValueError, match="processor"):
        quiet(real_clips, model, None)
    with pytest.raises(ValueError, match="accepted are SlapModel"):
        quiet(real_clips, model.audio_model)
    hf_slap.SlapForAudioCaptioning.from_pretrained(tiny_folder).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks \['audio_projection.weight'\]"):
        quiet(real_clips, tmp_path)


def test_without_datasets_the_extra_is_named(model, real_clips, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install \"hf_slap\[\w+\]\""):
        quiet(real_clips, model)


# ------------------------------------------------------------------------------------------ results on disk

KILLED = """
import sys
import torch
import hf_slap
from hf_slap import embedding

torch.set_num_threads(1)
embedding.PART_CLIPS, embedding.POOL_BATCHES = 3, 1
folder, model, output = sys.argv[1:]

def clips():
    for number, path in enumerate(sorted(map(str, __import__("pathlib").Path(folder).rglob("*.[oO]*")))):
        if number == 5:
            print("five", flush=True)
            import time; time.sleep(600)
        yield path

embedding.embed(clips(), model, output=output, batch_seconds=0.2, workers=1, progress=False)
"""


def test_a_run_that_was_killed_goes_on_where_it_was(model, tiny_folder, folder, tmp_path, monkeypatch):
    output = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(folder), str(tiny_folder), str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout.readline() == b"five\n"
        deadline = time.monotonic() + 60
        while not list(output.glob("part-*.arrow")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    (output / ".writing-part-000001.arrow").write_bytes(b"half a part")
    done = datasets.Dataset.from_file(str(output / "part-000000.arrow"))["id"]
    assert len(done) == 3

    read = []
    load = hf_slap.SlapFeatureExtractor.stream
    monkeypatch.setattr(hf_slap.SlapFeatureExtractor, "stream", lambda self, *a: read.append(a[0]) or load(self, *a))
    paths = sorted(map(str, folder.rglob("*.[oO]*")))
    result = quiet(paths, tiny_folder, None, output=output)
    assert sorted(read) == sorted(set(paths) - set(done))
    assert result.dataset["id"] == paths and "3 were there already" in result.summary
    np.testing.assert_allclose(table(result), table(quiet(folder, model)), atol=1e-6)
    assert not list(output.glob(".writing-*"))

    read.clear()
    again = quiet(paths[2:], tiny_folder, None, output=output)  # some of what is there, and nothing new
    assert read == [] and again.dataset["id"] == paths[2:]
    np.testing.assert_array_equal(table(again), table(result)[2:])


def test_a_clip_that_failed_is_tried_again_and_takes_its_place(model, real_clips, tmp_path):
    paths = [tmp_path / f"{number}.ogg" for number in range(3)]
    for path, clip in zip(paths, real_clips, strict=False):
        path.write_bytes(clip["bytes"])
    paths[1].write_bytes(b"")
    assert [clip for clip, _ in quiet(paths, model, output=tmp_path / "out").failed] == [str(paths[1])]
    paths[1].write_bytes(real_clips[1]["bytes"])
    mended = quiet(paths, model, output=tmp_path / "out")
    assert mended.failed == [] and not (tmp_path / "out" / "failed.jsonl").exists()
    assert mended.dataset["id"] == list(map(str, paths))
    np.testing.assert_allclose(table(mended), [alone(model, clip) for clip in real_clips[:3]], atol=1e-6)


def test_another_model_or_setting_is_refused_and_named(model, tiny_config, real_clips, tmp_path):
    quiet(real_clips, model, output=tmp_path)
    torch.manual_seed(1)
    with pytest.raises(ValueError, match="another model or with other settings.*\n  weights: "):
        quiet(real_clips, hf_slap.SlapModel(tiny_config), output=tmp_path)
    with pytest.raises(ValueError, match="precision: 'float32' there, 'int8' now"):
        quiet(real_clips, model, output=tmp_path, int8=True)
    with pytest.raises(ValueError, match=r"feature_extractor\.mean: -9.93 there, 0.0 now"):
        quiet(real_clips, model, hf_slap.SlapFeatureExtractor(mean=0.0), output=tmp_path)
    (tmp_path / "fingerprint.json").unlink()
    with pytest.raises(ValueError, match="no fingerprint.json"):
        quiet(real_clips, model, output=tmp_path)


def test_npy_files_hold_the_rows_and_their_ids(model, folder, tmp_path):
    result = quiet(folder, model)
    result.to_npy(tmp_path / "npy")
    np.testing.assert_array_equal(np.load(tmp_path / "npy" / "embeddings.npy"), table(result))
    assert json.loads((tmp_path / "npy" / "ids.json").read_text()) == result.dataset["id"]


def test_the_dataset_is_mapped_from_its_files_and_goes_with_the_result(model, real_clips, tmp_path):
    result = quiet(real_clips, model, output=tmp_path)
    assert [Path(file["filename"]) for file in result.dataset.cache_files] == [tmp_path / "part-000000.arrow"]
    temporary = quiet(real_clips, model)
    where = temporary.folder
    assert (where / "part-000000.arrow").exists()
    del temporary
    assert not where.exists()


# ------------------------------------------------------------------------------------------ how far threads read ahead


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_read_no_further_ahead_than_they_may(workers):
    taken, held, most_held = [], 0, 0

    def items():
        for number in range(60):
            taken.append(number)
            yield str(number), number

    def prepare(clip, item):
        nonlocal held, most_held
        for _ in range(30 if item == 20 else 1):  # one long clip among short ones
            held += 100
            most_held = max(most_held, held)
            yield np.full((100, 1), item)

    with embedding._LookAhead(items(), prepare, workers, most_frames=500) as look_ahead:
        time.sleep(0.2)
        assert len(taken) <= 5 + workers
        seen = []
        for clip, frames in look_ahead:
            if frames is None:
                seen.append(clip.id)
            else:
                held -= 100
                assert int(clip.id) == frames[0, 0]
    assert seen == [str(number) for number in range(60)]
    assert most_held <= 500 + 100 * (workers + 1)


def test_a_bar_and_a_summary_are_shown_unless_declined(model, real_clips, capfd):
    embed(real_clips, model, EXTRACTOR)
    shown = capfd.readouterr().err
    assert "7/7" in shown and "embedded 7 clips" in shown and "s of audio per second" in shown
    quiet(real_clips, model)
    assert capfd.readouterr().err == ""
