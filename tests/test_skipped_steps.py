import json

from hf_slap.skipped_steps import SKIPPED_FILE, SkippedSteps, read_skipped

BATCH = [{"ids": ["a", "b"], "losses": {"total": "nan"}}]


def go(skipped, steps):
    """Steps numbered from 1; those in `steps` are bad. Returns why the run has to stop, after each step."""
    whys = []
    for step, is_bad in enumerate(steps, start=1):
        skipped.note(step, "its loss is not finite" if is_bad else None, BATCH)
        whys.append(skipped.too_many(step))
    return whys


def test_three_in_a_row_are_too_many_where_three_are_allowed(tmp_path):
    assert go(SkippedSteps(tmp_path, 3, 1.0), [1, 1, 0, 1, 1, 0, 1, 1, 1]) == [None] * 8 + ["the last 3 steps"]


def test_more_than_a_tenth_of_all_steps_is_too_many_but_not_at_once(tmp_path):
    whys = go(SkippedSteps(tmp_path, 3, 0.1), [0, 1, 0, 1, 0, 1, 0, 1])
    assert whys == [None] * 7 + ["4 of 8 steps"]
    assert not any(go(SkippedSteps(tmp_path, 3, 0.1), [0] * 50 + [0, 1] * 4))


def test_what_was_skipped_is_listed_and_counted(tmp_path, capsys):
    skipped = SkippedSteps(tmp_path, 10, 1.0)
    go(skipped, [0, 1, 1])
    assert read_skipped(tmp_path) == [
        {"step": step, "reason": "its loss is not finite", "batches": BATCH} for step in (2, 3)
    ]
    assert skipped.counters == {"skipped_steps": 2, "skipped_in_a_row": 2}
    assert skipped.counters_when_good == {"skipped_steps": 0, "skipped_in_a_row": 0}
    assert "step 3 is skipped: its loss is not finite" in capsys.readouterr().out


def test_a_resumed_run_counts_on_and_forgets_what_comes_again(tmp_path):
    first = SkippedSteps(tmp_path, 3, 1.0)
    go(first, [1, 0, 1, 1])
    with (tmp_path / SKIPPED_FILE).open("a") as file:
        file.write('{"step": 5, "rea')  # killed while it was written
    resumed = SkippedSteps(tmp_path, 3, 1.0, json.loads(json.dumps(first.counters)), first_step=3)
    assert [row["step"] for row in read_skipped(tmp_path)] == [1, 3]
    resumed.note(5, "again", BATCH)
    assert resumed.too_many(5) == "the last 3 steps" and resumed.count == 4


def test_only_the_first_process_writes(tmp_path):
    go(SkippedSteps(tmp_path, 3, 1.0, active=False), [1])
    assert not (tmp_path / SKIPPED_FILE).exists()
