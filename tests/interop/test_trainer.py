"""transformers' own Trainer trains SLAP on real clips: classes, and captions by the contrastive loss."""

import math

import pytest
import torch
from datasets import Audio, Dataset
from transformers import Trainer, TrainingArguments

import hf_slap
from hf_slap.data import TrainerCollator


@pytest.fixture(scope="module")
def data(corpus_rows) -> Dataset:
    """Seven clips as people have them: sound undecoded, several captions each, a class number."""
    names = sorted({row["label"] for row in corpus_rows})
    rows = [{**row, "class": names.index(row["label"])} for row in corpus_rows]
    return Dataset.from_list(rows).cast_column("audio", Audio(decode=False))


@pytest.fixture
def train(data, tiny_processor, tmp_path):
    """train(model, collator, ...) -> the trainer after 30 steps, what it measured before and after."""

    def run(model, collator, **settings):
        learning = {"max_steps": 30, "per_device_train_batch_size": 7, "learning_rate": 5e-3}
        silence = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}
        arguments = TrainingArguments(
            str(tmp_path / "run"), remove_unused_columns=False, use_cpu=True, **learning, **silence, **settings
        )
        trainer = Trainer(
            model, arguments, collator, train_dataset=data, eval_dataset=data, processing_class=tiny_processor
        )
        before = trainer.evaluate()
        trainer.train()
        return trainer, before, trainer.evaluate()

    return run


def test_classes_are_learnt(train, data, tiny_folder, tiny_processor, tmp_path):
    classes = len(set(data["class"]))
    torch.manual_seed(0)  # of the new head
    model = hf_slap.SlapForAudioClassification.from_pretrained(tiny_folder, num_labels=classes)
    trainer, before, after = train(model, TrainerCollator(tiny_processor, label="class"))
    assert before["eval_loss"] == pytest.approx(math.log(classes), abs=0.1)
    assert after["eval_loss"] < 0.8 * before["eval_loss"]
    assert trainer.predict(data).predictions.shape == (7, classes)
    trainer.save_model(tmp_path / "model")  # with the processor, and loads again
    again = hf_slap.SlapForAudioClassification.from_pretrained(tmp_path / "model")
    hf_slap.SlapProcessor.from_pretrained(tmp_path / "model")
    assert torch.equal(again.classifier.weight, model.classifier.weight)


@pytest.mark.parametrize("recomputed", [False, True])
def test_captions_are_learnt_by_the_contrastive_loss(train, tiny_folder, tiny_processor, recomputed):
    model = hf_slap.SlapModel.from_pretrained(tiny_folder)
    collator = TrainerCollator(tiny_processor, caption="captions")
    _, before, after = train(model, collator, gradient_checkpointing=recomputed)
    assert after["eval_loss"] < min(before["eval_loss"], math.log(7))  # chance; a collapsed model stays there


def test_several_classes_of_a_clip_are_floats(tiny_processor, real_clips):
    rows = [{"audio": clip, "tags": [0, 1, 1]} for clip in real_clips[:2]]
    batch = TrainerCollator(tiny_processor, label="tags")(rows)
    assert batch["labels"].dtype == torch.float32 and batch["labels"].shape == (2, 3)


def test_what_is_missing_is_named(tiny_processor, real_clips):
    with pytest.raises(ValueError, match="name one column"):
        TrainerCollator(tiny_processor)
    with pytest.raises(KeyError, match="remove_unused_columns=False"):
        TrainerCollator(tiny_processor, label="class")([{"class": 1}])
