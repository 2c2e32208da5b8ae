"""Timelines: segments worked by hand, files as other programs read them, memory, and what is drawn."""

import csv
import io
import json
import tracemalloc

import numpy as np
import pytest
import soundfile

import hf_slap
from hf_slap.timeline import Segment, Timeline, _Changes, _Overview, cut, label_segments, stretches, timeline
from hf_slap.timeline_picture import MOST_CAPTIONS, MOST_TRACKS, timeline_figure

RATE, STEP = 16_000, 0.16
LABELS = ["a dog", "rain on a roof", "hammer"]


@pytest.fixture(scope="module")
def listener(tiny_folder) -> hf_slap.Listener:
    return hf_slap.Listener(tiny_folder)


@pytest.fixture(scope="module")
def wave(tiny_processor, real_clips) -> np.ndarray:
    """40 s of sounds, with silence from 20.0 to 22.4 s."""
    clips = [tiny_processor.feature_extractor.load(clip) for clip in real_clips]
    wave = np.resize(np.concatenate(clips), 40 * RATE)
    wave[20 * RATE : round(22.4 * RATE)] = 0
    return wave


def made(scores=None, segments=(), labels=(), seconds=None, name="walk.wav", threshold=0.5) -> Timeline:
    scores = np.zeros((100, len(labels)), np.float16) if scores is None else np.asarray(scores, np.float16)
    mel_hz = np.linspace(50, 8000, 64)
    spectrogram = np.random.default_rng(0).normal(size=(len(scores), 64)).astype(np.float32)
    return Timeline(
        name, seconds or len(scores) * STEP, list(segments), list(labels), scores, STEP, threshold,
        np.zeros(len(scores), np.float16), spectrogram, mel_hz,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ segments


def test_gaps_are_bridged_and_short_segments_dropped():
    score = np.zeros(40)
    score[2:7], score[10:12], score[20], score[30:40] = 0.9, 0.7, 0.9, 0.6  # a gap of 3 moments, 0.48 s
    found = label_segments(made(score[:, None], labels=["x"], seconds=6.5), min_seconds=0.5)
    assert [segment[:3] for segment in found] == [
        (pytest.approx(0.32), pytest.approx(1.92), "x"),
        (pytest.approx(4.8), 6.5, "x"),  # to the end of the recording, not of its last moment
    ]
    assert [segment.score for segment in found] == pytest.approx([(5 * 0.9 + 2 * 0.7) / 10, 0.6], abs=1e-3)
    assert len(label_segments(made(score[:, None], labels=["x"]), min_seconds=0.0)) == 4


def test_segments_of_several_labels_overlap_and_come_in_order_of_time():
    scores = np.zeros((50, 2))
    scores[10:30, 0], scores[5:40, 1] = 0.8, 0.9
    found = label_segments(made(scores, labels=["late", "early"]), 0.5)
    assert [segment.label for segment in found] == ["early", "late"]


def test_changes_are_seen_where_the_sound_changes_however_it_comes():
    embeds = np.repeat(np.eye(3, dtype=np.float32), 30, axis=0)
    for size in (7, 90):
        changes = _Changes(reach=9)
        for start in range(0, 90, size):
            changes.add(embeds[start : start + size])
        values = changes.values(90)
        assert values[[30, 60]] == pytest.approx([1, 1]) and values.shape == (90,)
        assert values[[0, 5, 15, 45, 75, 89]] == pytest.approx([0] * 6, abs=1e-6)
    few = _Changes(reach=9)
    few.add(embeds[:4])
    assert few.values(4).tolist() == [0] * 4


def test_stretches_end_at_silence_at_changes_and_where_they_grow_too_long():
    loud, changes = np.ones(400, bool), np.zeros(400, np.float32)
    loud[3:20] = loud[200:203] = False  # a pause of 17 moments, and one too short to part
    changes[60], changes[65], changes[150] = 0.9, 0.8, 0.1  # the second lies too near to the first
    found = stretches(changes, loud, STEP, min_seconds=3.0, max_seconds=30.0)
    assert found == [(0, 3), (20, 60), (60, 150), (150, 337), (337, 400)] or found[:2] == [(0, 3), (20, 60)]
    assert found[2][0] == 60 and found[-1][1] == 400 and all(end - start <= 187 for start, end in found)
    assert (60, 150) in found  # what is too long is parted at its strongest change, weak as it is


def test_pieces_are_cut_from_blocks_of_any_length():
    wave = np.arange(1000, dtype=np.float32)
    bounds = [(0, 10), (10, 11), (300, 900), (950, 1000)]
    for size in (1, 7, 333, 5000):
        blocks = (wave[start : start + size] for start in range(0, 1000, size))
        for piece, (start, end) in zip(cut(blocks, bounds), bounds, strict=True):
            np.testing.assert_array_equal(piece, wave[start:end])


@pytest.mark.parametrize("size", [3, 100, 2000])
def test_an_overview_stays_small_and_keeps_the_loudest(size):
    overview, frames = _Overview(50), np.zeros((1777, 2), np.float32)
    frames[1000, 1] = 5.0
    for start in range(0, len(frames), size):
        overview.add(frames[start : start + size])
    columns = overview.columns()
    assert 25 <= len(columns) <= 51 and columns[:, 0].max() == 0
    assert np.flatnonzero(columns[:, 1]) / len(columns) == pytest.approx(1000 / 1777, abs=0.03)


# ------------------------------------------------------------------------------------------------ recordings


def test_scores_are_those_of_the_moments_and_zero_at_silence(listener, wave, tmp_path):
    soundfile.write(tmp_path / "walk.flac", wave, RATE)
    told = []
    found = timeline(listener, None, tmp_path / "walk.flac", LABELS, progress=lambda *what: told.append(what))
    assert found.seconds == 40.0 and found.scores.shape == (250, 3) and found.labels == LABELS
    silent = slice(126, 139)
    assert not found.scores[silent].any() and (found.scores[:120] > 0).all()
    exclusive = timeline(listener, None, tmp_path / "walk.flac", LABELS, multi_label=False, threshold=0.0)
    assert exclusive.scores[:100].sum(1) == pytest.approx(np.ones(100), abs=2e-3)
    assert {segment.label for segment in exclusive.segments} == set(LABELS)
    assert told[-1] == ("listening", pytest.approx(40.0))
    short = wave[: 5 * RATE]
    heard = listener.labels(LABELS, multi_label=True)
    from hf_slap.moments import stream_moments

    extractor = listener.processor.feature_extractor
    [moments] = stream_moments([short], listener.model, extractor)
    alone = timeline(listener, None, short, LABELS, sampling_rate=RATE)
    np.testing.assert_allclose(alone.scores, heard.scores(moments.embeds), atol=1e-3)


def test_captions_are_those_of_each_stretch(listener, wave):
    found = timeline(listener, None, {"array": wave, "sampling_rate": RATE}, name="walk")
    assert found.name == "walk" and found.labels == [] and found.segments
    for before, after in zip(found.segments, found.segments[1:], strict=False):
        assert before.end <= after.start and (before.label != after.label or before.end < after.start)
    pause = [segment for segment in found.segments if segment.start < 21.2 < segment.end]
    assert pause == [] and found.segments[-1].end == 40.0
    one = min(found.segments, key=lambda segment: segment.end - segment.start)
    assert one.label == listener.write([wave[round(one.start * RATE) : round(one.end * RATE)]])[0]
    assert one.score is None


def test_silence_has_no_captions_and_no_labels(listener):
    silence = {"array": np.zeros(4 * RATE, np.float32), "sampling_rate": RATE}
    assert timeline(listener, None, silence).segments == []
    assert timeline(listener, None, silence, LABELS, threshold=0.0).segments == []


def test_what_is_asked_wrongly_is_refused_before_listening(listener, tmp_path):
    for keywords, said in (
        ({"labels": LABELS, "threshold": 1.5}, "between 0 and 1"),
        ({"labels": []}, "accepted is a list"),
        ({"labels": "dog"}, "accepted is a list"),
        ({"labels": LABELS, "min_seconds": -1}, "0 or more"),
        ({"min_seconds": 20}, "at most 15 for captions"),
    ):
        with pytest.raises(ValueError, match=said):
            timeline(listener, None, "nowhere.wav", **keywords)
    with pytest.raises(hf_slap.AudioError, match="no such file"):
        timeline(listener, None, "nowhere.wav", LABELS)


def test_ten_times_the_duration_needs_no_more_memory(listener, wave, tmp_path):
    peaks = []
    for minutes in (3, 30):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_U8") as file:
            for _ in range(0, minutes * 60, 40):
                file.write(wave)
        timeline(listener, None, path, LABELS) if not peaks else None  # what is loaded on first use
        tracemalloc.start()
        found = timeline(listener, None, path, LABELS)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.seconds >= minutes * 60 and len(found.spectrogram) <= 1601
    assert peaks[1] < peaks[0] + 2e6, peaks  # its waveform alone would be 115 MB, its spectrogram 46 MB


# ------------------------------------------------------------------------------------------------ files

FOUND = made(
    segments=[Segment(0.0, 1.25, "a dog"), Segment(3661.5, 3662.0, 'a <loud>\n"bang" & more --> end')], seconds=3700.0
)
SCORED = made(labels=["a, b"], segments=[Segment(0.16, 1.6, "a, b", 0.51239)])


def test_audacity_labels_are_seconds_and_text_between_tabs():
    lines = FOUND.to_audacity().splitlines()
    assert lines == ["0.000000\t1.250000\ta dog", '3661.500000\t3662.000000\ta <loud> "bang" & more --> end']


def test_webvtt_has_cues_whose_text_cannot_be_taken_for_markup():
    assert FOUND.to_webvtt() == (
        "WEBVTT\n\n1\n00:00:00.000 --> 00:00:01.250\na dog\n\n"
        '2\n01:01:01.500 --> 01:01:02.000\na &lt;loud&gt; "bang" &amp; more --&gt; end\n'
    )


def test_json_and_csv_hold_the_segments(tmp_path):
    assert json.loads(SCORED.to_json()) == {
        **{"name": "walk.wav", "seconds": 16.0, "labels": ["a, b"], "threshold": 0.5},
        "segments": [{"start": 0.16, "end": 1.6, "label": "a, b", "score": 0.5124}],
    }
    assert "labels" not in json.loads(FOUND.to_json())
    rows = list(csv.reader(io.StringIO(SCORED.save(tmp_path / "x.csv").read_text())))
    assert rows == [["start", "end", "label", "score"], ["0.16", "1.6", "a, b", "0.5124"]]
    assert FOUND.to_csv().startswith("start,end,label\n0.0,1.25,a dog\n")


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"accepted suffixes are \.txt, \.vtt"):
        FOUND.save(tmp_path / "x.mp3")


# ------------------------------------------------------------------------------------------------ pictures


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.texts] + [
        label.get_text() for axis in figure.axes for label in axis.get_yticklabels()
    ]


def test_pictures_show_tracks_or_numbered_captions(tmp_path):
    scores = np.zeros((300, 2))
    scores[20:80, 0] = 0.9
    tracks = made(scores, [Segment(3.2, 12.8, "a $1 dog", 0.9)], ["a $1 dog", "rain"], name="/far/away/walk.wav")
    figure = timeline_figure(tracks)
    assert {"walk.wav", "48.0 s", r"a \$1 dog", "rain", "4 kHz"} <= set(texts(figure))
    assert [text.get_text() for text in figure.axes[1].texts] == ["9.6 s", "–"]
    captions = timeline_figure(made(segments=[Segment(0, 4, "a dog"), Segment(6, 16, "rain")]))
    assert {"1", "2", "0:00.0 – 0:04.0", "a dog", "rain"} <= set(texts(captions))
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        assert tracks.save(tmp_path / f"x{suffix}").read_bytes().startswith(start)


def test_pictures_of_much_and_of_nothing_stay_in_size():
    labels = [f"label {number}" for number in range(MOST_TRACKS + 9)]
    heard = labels[-1]
    many = timeline_figure(made(segments=[Segment(1, 9, heard, 0.9)], labels=labels))
    assert heard in texts(many) and "… and 9 more" in texts(many)
    long = made(segments=[Segment(i, i + 1, f"sound {i}") for i in range(MOST_CAPTIONS + 5)], seconds=9000.0)
    assert "… and 5 more" in texts(timeline_figure(long))
    assert "silence" in texts(timeline_figure(made()))
    for figure in (many, timeline_figure(long)):
        assert figure.get_size_inches()[1] < 14


def test_short_segments_of_an_hour_keep_their_colour():
    segments = [Segment(start, start + 3.0, "rain", 0.9) for start in range(0, 3600, 6)]  # half of the hour
    figure = timeline_figure(made(segments=segments, labels=["rain"], seconds=3600.0))
    figure.canvas.draw()
    box = figure.axes[1].get_window_extent()
    pixels = np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3].astype(int)
    track = pixels[round(box.y0 + box.height * 0.3) : round(box.y0 + box.height * 0.7), round(box.x0) : round(box.x1)]
    blue = track[..., 2] - track[..., 0]  # 0 on white, 148 on the colour of the first track as it is drawn
    assert 0.35 < blue.mean() / 148 < 0.65
