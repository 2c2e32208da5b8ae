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

from hf_slap import SlapFeatureExtractor, SlapForAudioClassification
from hf_slap.classification import (
    LabelledClips,
    classification_loss,
    draw_pairs,
    fit_linear,
    pack_clips,
    read_classes,
)
from hf_slap.distributed import is_main, main_first, on_main, share_of_mean
from hf_slap.finetuning import FinetuneConfig, prepare_model
from hf_slap.fitting import (
    begin,
    draw_curves,
    fit,
    for_each_clip,
    my_part,
    open_corpora,
    save_model,
    training_batches,
    training_clips,
)
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
        mixup: see `classification.draw_pairs`; 0 is off.
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


def main(arguments: list[str] | None = None) -> Path:
    """Runs the training that the command line asks for; returns the folder of the best model or adapter."""
    # ------------------------------------------------------------------------------------------------- config
    config, accelerator = begin(ClassificationConfig, __doc__, arguments)

    # --------------------------------------------------------------------------------------------------- data
    corpus, held_out = open_corpora(config, config.seed, config.label_column)
    classes = read_classes(corpus, held_out, config.label_separator, config.multi_label)
    extractor = main_first(lambda: SlapFeatureExtractor.from_pretrained(config.model))

    # -------------------------------------------------------------------------------------------------- model
    frozen = [r"^slap\."] if config.method == "probe" else ["mask_token"]
    classifier, model = prepare_model(
        config,
        SlapForAudioClassification,
        unused=frozen,
        new_parts=["classifier"],
        id2label=dict(enumerate(classes.names)),
        label2id={name: number for number, name in enumerate(classes.names)},
        problem_type="multi_label_classification" if classes.multi_label else "single_label_classification",
    )

    # --------------------------------------------------------------------------------------------------- loop
    if config.method == "probe":
        folder = probe(config, accelerator, classifier, extractor, corpus, held_out, classes)
    else:
        durations, longest = corpus["duration"], classifier.config.audio_config.max_audio_seconds
        clips = training_clips(config, corpus, extractor, classifier)
        clips = LabelledClips(clips, classes.targets, classes.multi_label)

        def part(batch):  # of this process, of pairs that are drawn over all of them
            mine = set(my_part(batch, durations, longest))
            return [pair for pair in draw_pairs(batch, config.mixup, config.seed) if pair.clip in mine]

        def loss_of(wrapped, batch):
            logits = wrapped(input_features=batch["input_features"], clip_frames=batch["clip_frames"]).logits
            loss = classification_loss(logits, batch["targets"], classes.multi_label)
            return loss * share_of_mean(len(batch["targets"]))

        def classify(features, mask, rows):
            return model(input_features=features, input_features_mask=mask).logits.float().cpu().numpy()

        def validate():
            logits = for_each_clip(held_out, extractor, classify, accelerator, config)
            return classes.scores(np.stack(list(logits.values())), list(logits)), []

        batches = training_batches(config, clips, durations, longest, pack_clips, part)
        folder = fit(config, accelerator, model, batches, loss_of, validate, (classes.measure, max), extractor)

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
            "  import hf_slap; from transformers import AutoConfig, AutoModelForAudioClassification, pipeline\n"
            f'  config = AutoConfig.from_pretrained("{folder}/classes")\n'
            f'  model = AutoModelForAudioClassification.from_pretrained("{folder}", config=config)\n'
            "  features = hf_slap.SlapFeatureExtractor()\n"
            '  classify = pipeline("audio-classification", model=model, feature_extractor=features)'
        )
    return folder


def probe(config, accelerator, classifier, extractor, corpus, held_out, classes) -> Path:
    """A linear layer on features that are computed once: how much of the classes the frozen encoder knows."""
    run_folder, folder = Path(config.run_folder), Path(config.run_folder) / "model"
    classifier.to(accelerator.device).eval()

    def encode(features, mask, rows):
        return classifier.slap.audio_model(features, mask).pooler_output.float().cpu()

    sides = [for_each_clip(side, extractor, encode, accelerator, config) for side in (corpus, held_out)]
    (rows, x), (held_out_rows, held_out_x) = ((list(side), torch.stack(list(side.values()))) for side in sides)
    y = torch.from_numpy(classes.targets[rows])

    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(config.seed))
    fifth, rest = order[: max(1, len(x) // 5)], order[max(1, len(x) // 5) :]
    costs = {}
    for l2 in config.probe_l2:
        weight, bias, _ = fit_linear(x[rest], y[rest], classes.multi_label, l2)
        costs[l2] = classification_loss(x[fifth] @ weight.T + bias, y[fifth], classes.multi_label).item()
    l2 = min(costs, key=costs.get)
    weight, bias, trail = fit_linear(x, y, classes.multi_label, l2)
    with torch.no_grad():
        classifier.classifier.weight.copy_(weight)
        classifier.classifier.bias.copy_(bias)
        logits = classifier.classifier(held_out_x.to(accelerator.device)).cpu().numpy()
    with TrainingLog(run_folder, len(trail), 0, accelerator.log, is_main()) as log:
        for step, loss in enumerate(trail, start=1):
            if step % max(config.log_every, len(trail) // 10) == 0 or step in (1, len(trail)):
                log.train(step, {"total": loss})
        log.validation(len(trail), {**classes.scores(logits, held_out_rows), "l2": l2})
    on_main(lambda: save_model(folder, classifier, extractor))
    if is_main():
        print(f"curves: {draw_curves(run_folder)}")
    return folder


if __name__ == "__main__":
    main()
