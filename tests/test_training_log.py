"""What a run leaves behind: numbers that survive a restart, warnings, a table."""

import io
import json

import pytest
from rich.console import Console

from hf_slap.training_log import METRICS_FILE, TrainingLog, print_summary, read_metrics, tracked_name, tracker_settings


def fill(folder, steps=40):
    with TrainingLog(folder, total_steps=steps) as log:
        for step in range(1, steps + 1):
            log.heard(step, audio_seconds=12.0)
            log.train(step, {"total": 3.0 / step, "contrastive": 2.0 / step, "caption": 1.0 / step})
        log.validation(steps, {"text to audio recall@10": 0.5, "chance": 0.1})


def test_a_resumed_run_writes_its_lines_once(tmp_path):
    fill(tmp_path, steps=6)
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"kind": "train", "st')  # killed while writing
    with TrainingLog(tmp_path, total_steps=6, first_step=4) as log:
        log.train(5, {"total": 9.0})
    assert [(row["kind"], row["step"]) for row in read_metrics(tmp_path)] == [("train", s) for s in (1, 2, 3, 4, 5)]
    assert read_metrics(tmp_path)[-1]["total"] == 9.0


@pytest.mark.parametrize(("tracker", "word"), [("wandb", "id"), ("swanlab", "id"), ("trackio", "name")])
def test_a_tracker_goes_on_with_the_run_that_it_began(tmp_path, tracker, word):
    first, again = (tracker_settings(tracker, tmp_path, steps)[tracker] for steps in (0, 4))
    assert first == again == {word: first[word], "resume": "allow"} and first[word]
    (tmp_path / "other").mkdir()
    assert tracker_settings(tracker, tmp_path / "other", 0)[tracker][word] != first[word]
    assert tracker_settings("tensorboard", tmp_path, 4) == {"tensorboard": {"purge_step": 5}}


def test_trackers_get_the_numbers_by_kind(tmp_path):
    seen = []
    with TrainingLog(tmp_path, total_steps=2, track=lambda values, step: seen.append((step, values))) as log:
        log.train(1, {"total": 1.5})
        log.validation(1, {"recall": 0.25})
    assert seen[0][0] == 1 and seen[0][1]["loss/total"] == 1.5 and "speed/audio_seconds_per_second" in seen[0][1]
    assert seen[1] == (1, {"validation/recall": 0.25})


def test_names_for_trackers_put_together_what_belongs_together():
    names = {name: tracked_name("train", name) for name in ("audio_rank", "masked/source/radio/1", "something_else")}
    assert list(names.values()) == ["embeddings/audio_rank", "masked by source/radio/1", "train/something_else"]


def test_what_a_watch_says_is_printed_kept_and_repeated_in_the_summary(tmp_path, capsys):
    def watch(row):
        return [{"sign": "odd", "message": "it is odd", "advice": "even"}] if row["step"] == 3 else []

    seen = []
    with TrainingLog(tmp_path, 4, track=lambda values, step: seen.append(values), watch=watch) as log:
        for step in range(1, 5):
            log.train(step, {"total": 1.0})
    assert capsys.readouterr().out.count("WARNING after step 3: it is odd. Try: even.") == 1
    assert [row["step"] for row in read_metrics(tmp_path) if row["kind"] == "warning"] == [3]
    assert len(seen) == 4, "trackers take numbers only"
    text = io.StringIO()
    print_summary(tmp_path, 1.0, Console(file=text, width=200))
    assert "WARNING after step 3: it is odd" in text.getvalue()


def test_a_resumed_watch_has_seen_the_lines_before(tmp_path):
    fill(tmp_path, steps=6)
    seen = []
    with TrainingLog(tmp_path, 6, first_step=4, watch=lambda row: seen.append(row["step"]) or []) as log:
        log.train(5, {"total": 9.0})
    assert seen == [1, 2, 3, 4, 5]


def test_a_speed_that_is_given_is_not_measured_again(tmp_path):
    with TrainingLog(tmp_path, total_steps=1) as log:
        log.train(1, {"total": 1.0, "audio_seconds_per_second": 123.0})
    assert read_metrics(tmp_path)[0]["audio_seconds_per_second"] == 123.0


def test_a_run_without_a_single_line_can_still_be_summed_up(tmp_path):
    (tmp_path / METRICS_FILE).write_text("")
    print_summary(tmp_path, seconds=1.0, console=Console(file=io.StringIO()))


def test_the_summary_tells_first_last_and_best(tmp_path):
    fill(tmp_path, steps=4)
    text = io.StringIO()
    print_summary(tmp_path, seconds=65.0, console=Console(file=text, width=100))
    assert "contrastive loss" in text.getvalue() and "2.000  0.500  0.500" in text.getvalue()
    assert "held-out text to audio recall@10" in text.getvalue() and "1:05 min" in text.getvalue()


def test_lines_are_json_that_anyone_can_read(tmp_path):
    fill(tmp_path, steps=1)
    assert json.loads((tmp_path / METRICS_FILE).read_text().splitlines()[0])["contrastive"] == 2.0
