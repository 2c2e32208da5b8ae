"""mteb accepts the encoder and runs its own mock tasks with it, offline."""

import pytest

from hf_slap.evaluation.listeners import open_listener
from hf_slap.evaluation.mteb_encoder import mteb_encoder

mteb = pytest.importorskip("mteb")
pytest.importorskip("torchcodec")  # its mock clips are decoded by datasets


def test_mock_tasks_of_mteb_run(tiny_folder, tmp_path):
    from mteb.mocks.mock_run import get_compatible_mock_tasks

    encoder = mteb_encoder(open_listener(tiny_folder, cache=tmp_path, progress=False))
    wanted = {"MockAny2AnyRetrievalT2A", "MockAudioZeroshotClassification", "MockAudioClassification"}
    tasks = [task for task in get_compatible_mock_tasks(encoder) if task.metadata.name in wanted]
    done = mteb.evaluate(encoder, tasks, cache=None, show_progress_bar=False)
    assert {result.task_name for result in done.task_results} == wanted and not done.exceptions
