"""Pictures of a run: what is in them, as far as a test can see it."""

import json

import pytest

from hf_slap.pictures import costs_by, draw_health, draw_losses
from hf_slap.training_log import METRICS_FILE


def write(folder, rows):
    (folder / METRICS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))


def lines(steps=40):
    return [
        {
            "kind": "train", "step": step, "total": 3.0 / step, "contrastive": 2.0 / step, "caption": 1.0 / step,
            "gradient_norm": 4.0 / step, "audio_rank": 1.0 + step, "clips/source/radio": 3, "clips/source/field": 1,
            "contrastive/source/radio": 1.0, "contrastive/source/field": 5.0,
        }
        for step in range(1, steps + 1)
    ]  # fmt: skip


def size(picture):
    header = picture.read_bytes()[:24]
    assert header[1:4] == b"PNG"
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def test_the_losses_have_a_panel_for_each_part_and_one_for_the_held_out_scores(tmp_path):
    write(tmp_path, [*lines(), {"kind": "validation", "step": 40, "text to audio recall@10": 0.5, "chance": 0.1}])
    width, height = size(draw_losses(tmp_path, {"contrastive": 2.0}))
    assert width > 2.5 * height, "three panels in a row"


def test_the_picture_of_health_grows_with_what_there_is_to_show(tmp_path):
    plain = [{k: v for k, v in row.items() if "/" not in k} for row in lines()]
    write(tmp_path, plain)
    _, low = size(draw_health(tmp_path))
    write(tmp_path, [*lines(), {"kind": "warning", "step": 7, "sign": "odd", "message": "", "advice": ""}])
    _, high = size(draw_health(tmp_path))
    assert high > 1.5 * low, "a row of costs by source"


def test_a_run_without_a_single_line_can_still_be_drawn(tmp_path):
    write(tmp_path, [])
    assert draw_losses(tmp_path).exists() and draw_health(tmp_path) is None


def test_costs_of_a_source_are_relative_to_those_of_all_clips():
    found = costs_by("source", lines(), share=0.5)
    assert list(found) == ["radio", "field"] and found["radio"]["clips"] == 20 * 3
    mean = (3 * 1.0 + 1 * 5.0) / 4
    assert found["radio"]["contrastive"] == pytest.approx(1.0 / mean)
    assert found["field"]["contrastive"] == pytest.approx(5.0 / mean)


def test_ranges_of_durations_come_from_short_to_long():
    names = ["5 to 10", "20 or more", "under 1", "1 to 2", "10 to 20"]
    row = {f"clips/seconds/{name}": 1 for name in names} | {f"masked/seconds/{name}": 2.0 for name in names}
    assert list(costs_by("seconds", [row])) == ["under 1", "1 to 2", "5 to 10", "10 to 20", "20 or more"]
