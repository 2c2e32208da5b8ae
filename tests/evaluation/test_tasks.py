"""Tasks are refused when they contradict themselves; the tables hold what the papers list."""

import pytest

from hf_slap.evaluation.captioning import MEASURES
from hf_slap.evaluation.sets import SETS, how_to_get
from hf_slap.evaluation.suites import SUITES
from hf_slap.evaluation.suites.gtzan import FILTERED_TEST
from hf_slap.evaluation.tasks import Task


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "zeroshot"}, "kind is 'zeroshot'; accepted is one of"),
        ({"metric": "recall@1"}, "metric is 'recall@1'; accepted is one of"),
        ({"multi_label": True}, "metric is 'accuracy'; accepted is accuracy or F1 where a clip has one label"),
        ({"prompts": ("a sound",)}, "prompts is .*accepted is texts with {} once"),
        ({"label_pattern": "a|b"}, "label_pattern is 'a.b'; accepted is a regular expression with one group"),
        ({"kind": "probe", "pooling": "max"}, "pooling is 'max'"),
        ({"kind": "probe", "pooling": "knn", "shots": 3}, "shots is 3"),
    ],
)
def test_a_contradictory_task_is_refused(fields, message):
    values = {"name": "x", "kind": "zero_shot", "data": "esc50", "metric": "accuracy", "source": "", **fields}
    with pytest.raises(ValueError, match=f"task 'x': {message}"):
        Task(**values)


def test_a_label_becomes_words():
    task = Task("x", "zero_shot", "esc50", "accuracy", "", prompts=("{}", "a {}."), words={"ANG": "anger"})
    assert task.texts("Car_Horn") == ["car horn", "a car horn."] and task.texts("ANG") == ["anger", "a anger."]
    assert task.declaration() == {
        "name": "x", "kind": "zero_shot", "data": "esc50", "metric": "accuracy", "source": "",
        "prompts": ["{}", "a {}."], "words": {"ANG": "anger"},
    }  # fmt: skip


def test_the_tables_are_those_of_the_papers():
    assert len(SUITES["clap2023"]) == 26 and len(SUITES["slap"]) == 13
    assert {task.pooling for task in SUITES["captionstew"] if task.kind == "probe"} == {"mean", "attention"}
    kinds = {task.kind for task in SUITES["quick"]}
    assert kinds == {"zero_shot", "retrieval", "captioning", "probe", "events", "localisation"}
    tasks = [task for table in SUITES.values() for task in table]
    for table in SUITES.values():
        assert len({task.name for task in table}) == len(table)
    for task in tasks:
        assert task.kind == "mteb" or task.data in SETS
        assert set(task.measures or ()) <= set(MEASURES)


def test_gtzan_has_both_test_sets():
    full, filtered = (task for task in SUITES["slap"] if task.data == "gtzan")
    assert full.ids is None and len(filtered.ids) == len(FILTERED_TEST) == filtered.expected == 290
    assert {"jazz.00073", "disco.00001", "rock.00090"} <= FILTERED_TEST and "jazz.00054" not in FILTERED_TEST


def test_every_set_says_how_to_get_it():
    for name in SETS:
        assert f"--data {name}=" in how_to_get(name) and len(how_to_get(name)) > 60
