"""Trains SLAP to name the classes of labelled clips of your own: a linear probe, or the whole model with mixup.

    python examples/finetune_classification.py --config examples/configs/finetune_classification.yaml
    python examples/finetune_classification.py --config examples/configs/finetune_classification.yaml method=probe
    python examples/finetune_classification.py model=org/slap train_data=my/clips label_column=label lora.r=8

`my/clips` holds sound files and a metadata.csv with the columns file_name and label; several labels of a clip are
separated by label_separator, or come as a list. `accelerate launch` runs it on several devices. Top to bottom: config,
data, model, loop, what to do next.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from hf_slap import SlapForAudioClassification
from hf_slap.classification import classification_loss, fit_linear, label_targets, mixup, read_labels
from hf_slap.data import SkippedClip
from hf_slap.distributed import is_main, share_of_mean
from hf_slap.evaluation.tagging import tagging_scores
from hf_slap.evaluation.zero_shot import zero_shot_scores
from hf_slap.finetuning import (
    FinetuneConfig,
    begin,
    draw_curves,
    fit,
    for_each_clip,
    open_corpora,
    open_processor,
    prepare_model,
    save_model,
    training_clips,
    training_loader,
)
from hf_slap.starting_points import load_start
from hf_slap.training_log import TrainingLog

# E: one stripe of each kind; 30 of its 80 mel bins are 24 of our 64.
STRIPES = {"time_masks": 1, "max_time_mask_frames": 192, "freq_masks": 1, "max_freq_mask_bins": 24}


@dataclass
class ClassificationConfig(FinetuneConfig):
    """As `FinetuneConfig`; the numbers of full fine-tuning are those of EVAR's settings for M2D (E).

    Args:
        method: "full" trains the model, or adapters with `lora`; "probe" only a linear layer on frozen features.
        label_column: of the corpora: names, class numbers, or lists of them.
        label_separator: between the labels of one clip in a string, such as ";"; null: a string is one label.
        multi_label: clips may have several classes; null: if some clip has.
        mixup: see `classification.mixup`; 0 is off.
        clips: as in `FinetuneConfig`, over the stripes of `STRIPES`.
        probe_l2: penalties of the probe, of which a fifth of the training clips chooses one.
    """

    method: str = "full"
    label_column: str = "label"
    label_separator: str | None = None
    multi_label: bool | None = None
    mixup: float = 0.5  # E
    probe_l2: list[float] = field(default_factory=lambda: [1e-4, 1e-3, 1e-2, 1e-1, 1.0])

    epochs: int = 200  # E
    batch_clips: int = 128  # E
    optimizer: str = "sgd"  # E
    learning_rate: float = 2.0  # E, for AudioSet; small corpora want much less
    momentum: float = 0.9  # E
    warmup_epochs: float = 5.0  # E
    gradient_clip: float | None = None
    run_folder: str = "runs/classification"

    def __post_init__(self):
        self.clips = {**STRIPES, **self.clips}
        super().__post_init__()
        if self.method not in ("full", "probe"):
            raise ValueError(f"method is {self.method!r}; accepted are ['full', 'probe']")
        if self.method == "probe" and (self.lora is not None or self.quantization):
            raise ValueError("method=probe trains no weight of the model; lora and quantization must be null")
        if not self.probe_l2 or min(self.probe_l2) <= 0:
            raise ValueError(f"probe_l2 is {self.probe_l2}; it must list positive penalties")


class LabelledClips(torch.utils.data.Dataset):
    """The clips of an epoch with their targets, and where they stand in it."""

    def __init__(self, clips, targets):
        self.clips, self.targets = clips, targets

    def __getitem__(self, ref):
        return self.clips[ref], self.targets[ref.index], ref


class MixingCollator:
    """Packs clips and their targets into a batch, mixed in pairs; the pairs are of one process."""

    def __init__(self, alpha: float, seed: int):
        self.alpha, self.seed = alpha, seed

    def __call__(self, items):
        skipped = [(clip.id, clip.reason) for clip, *_ in items if isinstance(clip, SkippedClip)]
        items = [item for item in items if not isinstance(item[0], SkippedClip)]
        if not items:
            raise ValueError(f"not one clip of a batch can be used: {skipped[:10]}; repair or remove them")
        clips, targets, refs = zip(*items, strict=True)
        rng = np.random.default_rng((self.seed, refs[0].epoch, refs[0].position))
        features, targets = mixup([clip.features for clip in clips], targets, self.alpha, rng)
        return {
            "input_features": torch.from_numpy(np.concatenate(features)),
            "clip_frames": [len(clip) for clip in features],
            "targets": torch.from_numpy(np.stack(targets)),
            "ids": [clip.id for clip in clips],
            "audio_seconds": sum(clip.seconds for clip in clips),
            "skipped": skipped,
        }


def main(arguments: list[str] | None = None) -> Path:
    """Runs the training that the command line asks for; returns the folder of the best model or adapter."""
    # ------------------------------------------------------------------------------------------------- config
    config, accelerator = begin(ClassificationConfig, __doc__, arguments)

    # --------------------------------------------------------------------------------------------------- data
    with accelerator.main_process_first():
        corpus, held_out = open_corpora(config, config.label_column)
    labels, held_out_labels = (read_labels(side, config.label_separator) for side in (corpus, held_out))
    names = sorted({label for clip in labels for label in clip})
    targets = label_targets(labels, names, "the training corpus")
    held_out_targets = label_targets(held_out_labels, names, "the validation corpus")
    multi_label = config.multi_label if config.multi_label is not None else bool((targets.sum(1) > 1).any())
    if not multi_label and (np.concatenate([targets, held_out_targets]).sum(1) != 1).any():
        raise ValueError("some clip has several labels; set multi_label=true")
    processor = open_processor(config.model)
    extractor = processor.feature_extractor

    # -------------------------------------------------------------------------------------------------- model
    classifier, report = load_start(
        SlapForAudioClassification,
        config.model,
        config.audio_tower,
        quantization=config.quantization,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        problem_type="multi_label_classification" if multi_label else "single_label_classification",
    )
    frozen = [r"^slap\."] if config.method == "probe" else ["mask_token"]
    model = prepare_model(config, classifier, report, unused=frozen, new_parts=["classifier"])

    # --------------------------------------------------------------------------------------------------- loop
    def scores_of(logits: np.ndarray, rows: list[int]) -> dict[str, float]:
        if multi_label:
            result = tagging_scores(logits, held_out_targets[rows], names)
            return {
                "mAP": result.mean_average_precision,
                "low": result.low,
                "high": result.high,
                "chance": result.chance,
            }
        result = zero_shot_scores(logits, held_out_targets[rows].argmax(1), names)
        return {"accuracy": result.accuracy, "low": result.low, "high": result.high, "chance": result.chance}

    measure = "mAP" if multi_label else "accuracy"
    if config.method == "probe":
        folder = probe(config, accelerator, classifier, processor, (corpus, targets), held_out, multi_label, scores_of)
    else:
        clips = LabelledClips(training_clips(config, corpus, extractor, classifier), targets)
        longest = classifier.config.audio_config.max_audio_seconds
        collate = MixingCollator(config.mixup, config.seed)
        loader, epoch_ends = training_loader(config, clips, corpus["duration"], longest, collate)

        def loss_of(wrapped, batch):
            logits = wrapped(input_features=batch["input_features"], clip_frames=batch["clip_frames"]).logits
            loss = classification_loss(logits, batch["targets"], multi_label)
            return loss * share_of_mean(len(batch["targets"]))

        def classify(features, mask, rows):
            return model(input_features=features, input_features_mask=mask).logits.float().cpu().numpy()

        def validate():
            logits = for_each_clip(held_out, extractor, classify, accelerator, config)
            return scores_of(np.stack(list(logits.values())), list(logits)), []

        folder = fit(config, accelerator, model, loader, epoch_ends, loss_of, validate, (measure, max), processor)

    # --------------------------------------------------------------------------------------- what to do next
    whole = Path(config.run_folder) / "model"
    accelerator.print(f"model: {folder}")
    if is_main() and whole.is_dir():
        print(
            "next, name what is heard in a clip of your own:\n"
            "  import hf_slap; from transformers import pipeline\n"
            f'  classify = pipeline("audio-classification", model="{whole}")\n'
            '  classify("clip.wav")'
        )
    if folder != whole:  # the adapter alone must be told its classes
        accelerator.print(
            "next, load the adapter with its classes:\n"
            "  from hf_slap import SlapConfig, SlapForAudioClassification; from peft import PeftModel\n"
            f'  config = SlapConfig.from_pretrained("{folder}/classes")\n'
            f'  model = SlapForAudioClassification.from_pretrained("{config.model}", config=config)\n'
            f'  model = PeftModel.from_pretrained(model, "{folder}")'
        )
    return folder


def probe(config, accelerator, classifier, processor, learned, held_out, multi_label, scores_of) -> Path:
    """A linear layer on features that are computed once: how much of the classes the frozen encoder knows."""
    corpus, targets = learned
    run_folder, folder = Path(config.run_folder), Path(config.run_folder) / "model"
    classifier.to(accelerator.device).eval()

    def encode(features, mask, rows):
        return classifier.slap.audio_model(features, mask).pooler_output.float().cpu()

    sides = [
        for_each_clip(side, processor.feature_extractor, encode, accelerator, config) for side in (corpus, held_out)
    ]
    (rows, x), (held_out_rows, held_out_x) = ((list(side), torch.stack(list(side.values()))) for side in sides)
    y = torch.from_numpy(targets[rows])

    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(config.seed))
    fifth, rest = order[: max(1, len(x) // 5)], order[max(1, len(x) // 5) :]
    costs = {}
    for l2 in config.probe_l2:
        weight, bias, _ = fit_linear(x[rest], y[rest], multi_label, l2)
        costs[l2] = classification_loss(x[fifth] @ weight.T + bias, y[fifth], multi_label).item()
    l2 = min(costs, key=costs.get)
    weight, bias, trail = fit_linear(x, y, multi_label, l2)
    with torch.no_grad():
        classifier.classifier.weight.copy_(weight)
        classifier.classifier.bias.copy_(bias)
        logits = classifier.classifier(held_out_x.to(accelerator.device)).cpu().numpy()
    with TrainingLog(run_folder, len(trail), 0, accelerator.log, is_main()) as log:
        for step, loss in enumerate(trail, start=1):
            if step % max(config.log_every, len(trail) // 10) == 0 or step in (1, len(trail)):
                log.train(step, {"total": loss})
        log.validation(len(trail), {**scores_of(logits, held_out_rows), "l2": l2})
    if is_main():
        save_model(folder, classifier, processor)
        print(f"curves: {draw_curves(run_folder)}")
    accelerator.wait_for_everyone()
    return folder


if __name__ == "__main__":
    main()
