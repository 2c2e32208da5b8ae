"""Fine-tunes SLAP to write captions like those of captioned clips of your own.

    python examples/finetune_captioning.py --config examples/configs/finetune_captioning.yaml
    python examples/finetune_captioning.py model=org/slap train_data=my/clips run_folder=runs/mine lora.r=8
    python examples/finetune_captioning.py --config examples/configs/finetune_prefix_captioning.yaml

The last one learns ClapCap's captioner: all that is trained turns the embedding of a clip into a prefix, which a
language model goes on from.
`my/clips` holds sound files and a metadata.csv with the columns file_name and caption. `accelerate launch` runs it on
several devices. Top to bottom: config, data, model, loop, what to do next.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch.nn.functional as F
from transformers import AutoConfig, GPT2Config

from hf_slap import SlapForAudioCaptioning, SlapForPrefixCaptioning
from hf_slap.data import PretrainCollator
from hf_slap.distributed import share_of_mean
from hf_slap.evaluation.word_overlap import word_overlap
from hf_slap.finetuning import FinetuneConfig, open_processor, prepare_model
from hf_slap.fitting import begin, fit, for_each_clip, open_corpora, training_batches, training_clips
from hf_slap.modeling.losses_slap import caption_loss


@dataclass
class CaptioningConfig(FinetuneConfig):
    """As `FinetuneConfig`; the numbers are those of WavCaps' captioning settings for fine-tuning (W).

    Args:
        caption_column: of the corpora; null: captions, caption or text.
        language_model: folder or Hub id of a causal language model that shall write behind a prefix, or keywords of a
            `GPT2Config` to start one anew with the model's tokenizer. null: `model` has its captioner, of either kind.
        prefix: with `language_model`, keywords of `SlapPrefixConfig` for the new mapper.
        label_smoothing: share of the target spread over the vocabulary; the validation loss has none.
        beams: of the search that writes captions at validation.
        write_clips: for so many held-out clips, evenly spread, captions are written at validation.
        show_clips: of these are printed.
    """

    caption_column: str | None = None
    language_model: str | dict | None = None
    prefix: dict = field(default_factory=dict)
    label_smoothing: float = 0.1  # W
    beams: int = 3  # W
    write_clips: int = 100
    show_clips: int = 4

    epochs: int = 20  # W
    batch_clips: int = 32  # W
    learning_rate: float = 1e-4  # W
    weight_decay: float = 1e-6  # W
    gradient_clip: float | None = 2.0  # W
    run_folder: str = "runs/captioning"


def main(arguments: list[str] | None = None) -> Path:
    """Runs the fine-tuning that the command line asks for; returns the folder of the best model or adapter."""
    # ------------------------------------------------------------------------------------------------- config
    config, accelerator = begin(CaptioningConfig, __doc__, arguments)

    # --------------------------------------------------------------------------------------------------- data
    corpus, held_out = open_corpora(config, config.seed, config.caption_column)
    writer = config.language_model
    processor = open_processor(config.model, writer if isinstance(writer, str) else None)
    extractor = processor.feature_extractor

    # -------------------------------------------------------------------------------------------------- model
    if isinstance(writer, dict):
        tokens = {name: getattr(processor.tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        writer = GPT2Config(**{"vocab_size": len(processor.tokenizer), **tokens, **writer})
    if writer is not None or AutoConfig.from_pretrained(config.model).model_type == "slap_prefix":
        start = {"model_class": SlapForPrefixCaptioning, "unused": ["mask_token"]}
    else:
        start = {"model_class": SlapForAudioCaptioning, "unused": ["mask_token", r"audio_model\.(pooler|fc1)\."]}
    captioner, model = prepare_model(config, **start, language_model=writer, **config.prefix)
    collate = PretrainCollator(processor.tokenizer, captioner.longest_caption, captioner.config.eos_token_id)
    clips = training_clips(config, corpus, extractor, captioner)
    longest = captioner.config.audio_config.max_audio_seconds
    batches = training_batches(config, clips, corpus["duration"], longest, collate)

    # --------------------------------------------------------------------------------------------------- loop
    def loss_of(wrapped, batch):
        outputs = wrapped(
            input_features=batch["input_features"], clip_frames=batch["clip_frames"], labels=batch["labels"]
        )
        loss = caption_loss(outputs.logits, batch["labels"], config.label_smoothing)
        return loss * share_of_mean(int((batch["labels"] != -100).sum()))

    references = held_out["captions"]
    spread = math.ceil(len(held_out) / max(config.write_clips, 1))

    def judge(features, mask, rows):
        """Per clip: nats and number of tokens of its captions, tokens guessed right, and a caption if it has one."""
        heard = captioner.get_encoder()(features, mask)
        owner = [place for place, row in enumerate(rows) for _ in references[row]]
        labels = collate.labels([text for row in rows for text in references[row]]).to(features.device)
        of_captions = type(heard)(**{name: value[owner] for name, value in heard.items()})
        logits = captioner(encoder_outputs=of_captions, labels=labels).logits.float()
        nats = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
        counted = labels != -100
        sums = [nats.view_as(labels).sum(1), counted.sum(1), ((logits.argmax(-1) == labels) & counted).sum(1)]
        results = [[0.0, 0, 0, None] for _ in rows]
        for place, *numbers in zip(owner, *(x.tolist() for x in sums), strict=True):
            for column, number in enumerate(numbers):
                results[place][column] += number
        chosen = [place for place, row in enumerate(rows) if config.write_clips and row % spread == 0]
        if chosen:
            written = captioner.generate(
                features[chosen],
                input_features_mask=mask[chosen],
                num_beams=config.beams,
                max_length=captioner.longest_caption,
            )
            for place, text in zip(chosen, processor.batch_decode(written), strict=True):
                results[place][3] = text.strip()
        return results

    def validate():
        judged = for_each_clip(held_out, extractor, judge, accelerator, config)
        nats, tokens, hits = (sum(result[column] for result in judged.values()) for column in range(3))
        values = {"loss": nats / tokens, "token accuracy": hits / tokens}
        written = {row: result[3] for row, result in judged.items() if result[3] is not None}
        if written:
            values |= word_overlap(list(written.values()), [references[row] for row in written])
        shown = list(written.items())[: config.show_clips]
        return values, [f"  {held_out['id'][row]}: {text!r}; right: {references[row][0]!r}" for row, text in shown]

    folder = fit(config, accelerator, model, batches, loss_of, validate, ("loss", min), processor)

    # --------------------------------------------------------------------------------------- what to do next
    accelerator.print(
        f"model: {folder}\nnext, caption a clip of your own:\n"
        "  import hf_slap; from transformers import pipeline\n"
        f'  caption = pipeline("audio-captioning", model="{folder}")\n'
        f'  caption("clip.wav", num_beams={config.beams})'
    )
    return folder


if __name__ == "__main__":
    main()
