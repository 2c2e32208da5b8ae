"""Fine-tunes SLAP for finding clips by caption and captions by clip, on captioned clips of your own.

    python examples/finetune_retrieval.py --config examples/configs/finetune_retrieval.yaml
    python examples/finetune_retrieval.py model=org/slap train_data=my/clips run_folder=runs/mine lora.r=8

`my/clips` holds sound files and a metadata.csv with the columns file_name and caption. `accelerate launch` runs it on
several devices. Top to bottom: config, data, model, loop, what to do next.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hf_slap import SlapModel
from hf_slap.data import PretrainCollator
from hf_slap.evaluation.retrieval import relevance, retrieval_scores
from hf_slap.finetuning import FinetuneConfig, open_processor, prepare_model
from hf_slap.fitting import begin, fit, for_each_clip, open_corpora, training_batches, training_clips
from hf_slap.objectives import global_contrastive_loss

TEXTS_AT_ONCE = 256


@dataclass
class RetrievalConfig(FinetuneConfig):
    """As `FinetuneConfig`; the numbers are those of WavCaps' retrieval settings (W) where it has them.

    WavCaps also regularises its embeddings and drops out 0.2 of the projections; neither is done here.

    Args:
        text_tower: folder or Hub id of any text model in place of the model's own, with its tokenizer.
        caption_column: of the corpora; null: captions, caption or text.
        max_caption_tokens: longer captions are cut.
    """

    text_tower: str | None = None
    caption_column: str | None = None
    max_caption_tokens: int = 128

    epochs: int = 20  # W
    batch_clips: int = 128  # W
    optimizer: str = "adamw"  # W: Adam, which is AdamW without decay
    learning_rate: float = 5e-5  # W
    warmup_epochs: float = 0.0  # W
    weight_decay: float = 0.0  # W
    gradient_clip: float | None = 2.0  # W
    run_folder: str = "runs/retrieval"


def main(arguments: list[str] | None = None) -> Path:
    """Runs the fine-tuning that the command line asks for; returns the folder of the best model or adapter."""
    # ------------------------------------------------------------------------------------------------- config
    config, accelerator = begin(RetrievalConfig, __doc__, arguments)

    # --------------------------------------------------------------------------------------------------- data
    corpus, held_out = open_corpora(config, config.seed, config.caption_column)
    processor = open_processor(config.model, config.text_tower)
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    collate = PretrainCollator(tokenizer, config.max_caption_tokens)

    # -------------------------------------------------------------------------------------------------- model
    slap, model = prepare_model(config, SlapModel, unused=["mask_token"], text_tower=config.text_tower)
    slap.config.decoder_config = None  # a captioner that heard the old tower would be worse than none
    clips = training_clips(config, corpus, extractor, slap)
    longest = slap.config.audio_config.max_audio_seconds
    batches = training_batches(config, clips, corpus["duration"], longest, collate)

    # --------------------------------------------------------------------------------------------------- loop
    def loss_of(wrapped, batch):
        outputs = wrapped(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            input_features=batch["input_features"],
            clip_frames=batch["clip_frames"],
        )
        scale, bias, kind = slap.scale, slap.bias, slap.config.contrastive_kind
        return global_contrastive_loss(outputs.audio_embeds, outputs.text_embeds, scale, batch["groups"], bias, kind)

    def embed_clips(features, mask, rows):
        return slap.get_audio_features(features, mask).pooler_output.float().cpu().numpy()

    def embed_texts(texts):
        inputs = tokenizer(
            texts, padding=True, truncation=True, max_length=collate.max_text_tokens, return_tensors="pt"
        ).to(accelerator.device)
        return slap.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output.float().cpu()

    def validate():
        clips = for_each_clip(held_out, extractor, embed_clips, accelerator, config)
        captions, relevant = relevance([held_out["captions"][row] for row in clips])
        with accelerator.autocast():
            parts = [captions[i : i + TEXTS_AT_ONCE] for i in range(0, len(captions), TEXTS_AT_ONCE)]
            texts = torch.cat([embed_texts(part) for part in parts]).numpy()
        scores = retrieval_scores(np.stack(list(clips.values())), texts, relevant)
        values = {
            f"{way} {measure}": scores[way.replace(" ", "_")][measure]
            for way in ("text to audio", "audio to text")
            for measure in ("recall@1", "recall@10", "map@10")
        }
        return {**values, "mean map@10": (values["text to audio map@10"] + values["audio to text map@10"]) / 2}, []

    folder = fit(config, accelerator, model, batches, loss_of, validate, ("mean map@10", max), processor)

    # --------------------------------------------------------------------------------------- what to do next
    accelerator.print(
        f"model: {folder}\nnext, find the clips that a text describes:\n"
        "  import hf_slap; from transformers import AutoModel, AutoProcessor\n"
        f'  model, processor = AutoModel.from_pretrained("{folder}"), AutoProcessor.from_pretrained("{folder}")\n'
        '  inputs = processor(text=["rain"], audio=["one.wav", "two.wav"], return_tensors="pt")\n'
        "  model(**inputs).logits_per_text"
    )
    return folder


if __name__ == "__main__":
    main()
