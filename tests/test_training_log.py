"""What a run leaves behind: numbers that survive a restart, a picture, a table."""

import io
import json

from rich.console import Console

from hf_slap.training_log import METRICS_FILE, TrainingLog, draw_losses, print_summary, read_metrics


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


def test_trackers_get_the_numbers_by_kind(tmp_path):
    seen = []
    with TrainingLog(tmp_path, total_steps=2, track=lambda values, step: seen.append((step, values))) as log:
        log.train(1, {"total": 1.5})
        log.validation(1, {"recall": 0.25})
    assert seen[0][0] == 1 and seen[0][1]["train/total"] == 1.5 and "train/audio_seconds_per_second" in seen[0][1]
    assert seen[1] == (1, {"validation/recall": 0.25})


def test_the_picture_has_a_panel_for_each_part_and_one_for_the_held_out_scores(tmp_path):
    fill(tmp_path)
    picture = draw_losses(tmp_path, {"contrastive": 2.0})
    header = picture.read_bytes()[:24]
    width, height = int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")
    assert header[1:4] == b"PNG" and width > 2.5 * height, "three panels in a row"


def test_a_run_without_a_single_line_can_still_be_drawn_and_summed_up(tmp_path):
    (tmp_path / METRICS_FILE).write_text("")
    assert draw_losses(tmp_path).exists()
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
