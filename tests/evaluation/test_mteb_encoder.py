"""mteb accepts the encoder and runs its own mock tasks of sound with it, offline."""

import pytest

from hf_slap.evaluation.listeners import open_listener
from hf_slap.evaluation.mteb_encoder import mteb_encoder

mteb = pytest.importorskip("mteb")
pytest.importorskip("torchcodec")  # its mock clips are decoded by datasets


def test_mock_tasks_of_mteb_run(tiny_folder, tmp_path):
    from mteb.mocks.mock_run import get_compatible_mock_tasks

    encoder = mteb_encoder(open_listener(tiny_folder, cache=tmp_path, progress=False))
    tasks = [task for task in get_compatible_mock_tasks(encoder) if "audio" in task.metadata.modalities]
    done = mteb.evaluate(encoder, tasks, cache=None, show_progress_bar=False)
    assert sorted(result.task_name for result in done.task_results) == sorted(task.metadata.name for task in tasks)
    assert not done.exceptions
    kinds = {task.metadata.type for task in tasks}
    assert {"Any2AnyRetrieval", "AudioClassification", "AudioZeroshotClassification", "Clustering"} <= kinds
