"""Pretrains SLAP's audio tower on labels: several tasks at once, each with its own corpus, column and head.

    accelerate launch examples/pretrain_supervised.py --config examples/configs/tiny_supervised.yaml
    accelerate launch examples/pretrain_supervised.py --config examples/configs/tiny_supervised.yaml --resume
    accelerate launch examples/pretrain.py --config examples/configs/tiny.yaml audio_from=runs/tiny-supervised/model

The last line starts the pretraining on captions from what this has learned (CLAP 2023; CaptionStew's supervised
initialisation). Top to bottom: config, data, model, loop, what to do next.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hf_slap import SlapConfig, SlapFeatureExtractor, SlapForAudioClassification
from hf_slap.classification import LabelledClips
from hf_slap.distributed import main_first, on_main
from hf_slap.fitting import Batches, LoopConfig, begin, fit, for_each_clip, make_loader, training_clips
from hf_slap.starting_points import freeze, model_keywords, take_start, tell_start
from hf_slap.supervised import TaskClips, TaskSettings, class_names, open_tasks, pack_tasks, task_batches
from hf_slap.training_config import read_values


@dataclass
class SupervisedConfig(LoopConfig):
    """As `LoopConfig`; the numbers are those of HTS-AT's code for AudioSet (H) where it has them.

    An epoch is as many steps as it takes to hear as many clips as all tasks have together.

    Args:
        tasks: {name: keywords of `supervised.TaskSettings`}; `train_data` and the like at the top are for all tasks
            without their own.
        balance: see `supervised.clips_per_task`.
        audio_config: keywords of `SlapAudioConfig`, over those of `audio_tower` if there is one.
        mixup: see `classification.draw_pairs`; partners are of the same task. 0 is off.
    """

    tasks: dict = field(default_factory=dict)
    balance: float = 0.5
    audio_config: dict = field(default_factory=dict)
    mixup: float = 0.5  # EVAR's for fine-tuning; HTS-AT's is not stated

    epochs: int = 100  # H
    batch_clips: int = 128  # H
    learning_rate: float = 1e-3  # H
    warmup_epochs: float = 3.0  # H: three steps up to the third epoch
    weight_decay: float = 0.05  # H
    gradient_clip: float | None = 1.0  # as in pretraining
    keep_checkpoints: int = 3
    run_folder: str = "runs/supervised"

    def __post_init__(self):
        super().__post_init__()
        if not self.tasks:
            raise ValueError("tasks is empty; name at least one, such as tasks={label: {label_column: label}}")
        for name, given in self.tasks.items():
            TaskSettings.of(name, given)
        if not 0 <= self.balance <= 1 or self.mixup < 0:
            raise ValueError(
                f"balance={self.balance} must lie between 0 and 1, mixup={self.mixup} must not be negative"
            )

    @classmethod
    def load(cls, path=None, overrides=()):
        return cls(**read_values(cls, path, overrides))  # each task may bring its own train_data


def main(arguments: list[str] | None = None) -> Path:
    """Runs the training that the command line asks for; returns the folder of the best model."""
    # ------------------------------------------------------------------------------------------------- config
    config, accelerator = begin(SupervisedConfig, __doc__, arguments)

    # --------------------------------------------------------------------------------------------------- data
    tasks = open_tasks(config, config.tasks)

    # -------------------------------------------------------------------------------------------------- model
    keywords = model_keywords({"audio_config": config.audio_config, "decoder_config": False}, None, config.audio_tower)
    names = class_names(tasks)
    model = SlapForAudioClassification(
        SlapConfig(
            **keywords,
            id2label=names,
            label2id={name: column for column, name in names.items()},
            problem_type="multi_label_classification",  # as a whole: several tasks have an answer each
        )
    ).train()
    report = main_first(lambda: take_start(model, audio_from=config.audio_tower))
    freeze(model, ["mask_token"], missing_ok=True)
    freeze(model, config.frozen)
    if config.gradient_checkpointing:
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    on_main(lambda: tell_start(Path(config.run_folder), model, report, config.frozen))
    audio = model.config.audio_config
    extractor = SlapFeatureExtractor.for_audio_config(audio)

    # --------------------------------------------------------------------------------------------------- loop
    settings = [{**config.clips, **task.settings.clips} for task in tasks]
    clips = TaskClips(
        [
            LabelledClips(
                training_clips(config, task.corpus, extractor, model, of_task),
                task.classes.targets,
                task.classes.multi_label,
            )
            for task, of_task in zip(tasks, settings, strict=True)
        ],
        tasks,
    )
    steps = -(-sum(len(task.corpus) for task in tasks) // config.batch_clips)  # of an epoch

    def loader(first, last):
        refs = task_batches(config, tasks, config.balance, config.mixup, audio.max_audio_seconds, first, last)
        return make_loader(config, clips, refs, pack_tasks)

    def loss_of(wrapped, batch):
        logits = wrapped(input_features=batch["input_features"], clip_frames=batch["clip_frames"]).logits
        counts = [batch["task_clips"].get(number, 0) for number in range(len(tasks))]
        parts = zip(tasks, logits.split(counts), batch["targets"].split(counts), strict=True)
        losses = {task.name: task.loss(mine, target) for task, mine, target in parts}
        return sum(task.settings.weight * losses[task.name] for task in tasks), losses

    def classify(features, mask, rows):
        return model(input_features=features, input_features_mask=mask).logits.float().cpu().numpy()

    def validate():
        values, scores = {}, []
        for task in tasks:
            logits = for_each_clip(task.held_out, extractor, classify, accelerator, config)
            result = task.classes.scores(np.stack(list(logits.values()))[:, task.columns], list(logits))
            scores.append(result[task.classes.measure])
            values |= {f"{task.name} {name}": result[name] for name in (task.classes.measure, "chance")}
        return {"mean score": sum(scores) / len(scores), **values}, []

    batches = Batches(loader, [steps * epoch for epoch in range(1, config.epochs + 1)])
    folder = fit(config, accelerator, model, batches, loss_of, validate, ("mean score", max), extractor)

    # --------------------------------------------------------------------------------------- what to do next
    first = tasks[0]
    accelerator.print(
        f"model: {folder}\nnext, pretrain on captions from its audio tower:\n"
        f"  accelerate launch examples/pretrain.py --config ... audio_from={folder}\n"
        "or keep the head of one task:\n"
        "  import hf_slap; from hf_slap.supervised import one_task\n"
        f'  head = one_task("{folder}", "{first.name}", multi_label={first.classes.multi_label})\n'
        f'  hf_slap.save_folder("{first.name}", head, hf_slap.SlapFeatureExtractor())'
    )
    return folder


if __name__ == "__main__":
    main()
