"""Trains transformers' ClapModel (HTSAT and a RoBERTa-like text tower) from scratch as pretrain.py trains SLAP.

    python examples/pretrain_clap.py --config examples/configs/tiny_clap.yaml
    python examples/pretrain_clap.py --config examples/configs/tiny_clap.yaml seed=1 run_folder=runs/tiny-clap-1

For comparisons: clips, batches, augmentation, tokenizer, contrastive loss, optimizer and schedules are those of
`TrainConfig`, the sound is SLAP's log-mel; only the model is another. One process, contrastive loss alone, no
checkpoints. Top to bottom: config, data, model, loop, export.
"""

import argparse
import functools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from pretrain import build_tokenizer
from torch.utils.data import DataLoader
from transformers import ClapConfig, ClapModel

from hf_slap import SlapAudioConfig, SlapFeatureExtractor
from hf_slap.data import ClipSettings, PretrainCollator, PretrainDataset, load_corpus, run_batches, take_fraction
from hf_slap.objectives import draw_patch_mask, global_contrastive_loss
from hf_slap.optimization import parameter_groups, scheduled, set_learning_rate
from hf_slap.training_config import TrainConfig

FRAMES_PER_SECOND = 100


@dataclass
class ClapTrainConfig(TrainConfig):
    """As `TrainConfig`, whose `model` is read for the longest clip, the mel bins and nothing else.

    Args:
        clap: keywords of transformers' `ClapConfig`; vocabulary and special tokens are the tokenizer's.
    """

    clap: dict = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        if self.masked_weight or self.caption_weight or not self.contrastive_weight:
            raise ValueError(
                f"the loss weights are {self.loss_weights}; a ClapModel learns from the contrastive loss alone: set "
                "masked_weight and caption_weight to 0"
            )


def main(arguments: list[str] | None = None) -> Path:
    """Runs the training that the command line asks for; returns the folder of the model."""
    # ------------------------------------------------------------------------------------------------- config
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML file: the fields of ClapTrainConfig that differ from its defaults")
    parser.add_argument("overrides", nargs="*", help="key=value, such as total_steps=100")
    parsed = parser.parse_args(arguments)
    config = ClapTrainConfig.load(parsed.config, parsed.overrides)
    print(config.to_yaml())
    set_seed(config.seed)

    # --------------------------------------------------------------------------------------------------- data
    corpus = take_fraction(load_corpus(config.train_data, config.train_split), config.data_fraction)
    tokenizer = build_tokenizer(config, corpus)
    audio = SlapAudioConfig(**config.model.get("audio_config", {}))
    extractor = SlapFeatureExtractor(feature_size=audio.num_mel_bins, patch_frames=audio.patch_frames)
    settings = ClipSettings(
        **config.clips,
        seed=config.seed,
        max_seconds=audio.max_audio_seconds,
        patch_frames=audio.patch_frames,
        patch_bins=audio.patch_bins,
    )
    clips = PretrainDataset(corpus, extractor, functools.partial(draw_patch_mask, kind=config.mask_kind), settings)
    collate = PretrainCollator(tokenizer, config.max_caption_tokens, tokenizer.sep_token_id, clips.silence)
    durations = corpus.with_format("arrow")["duration"][:].to_numpy()
    batches = run_batches(
        durations, config.batch_seconds, config.seed, 0, config.total_steps, max_seconds=audio.max_audio_seconds,
        max_clips=config.max_batch_clips,
    )  # fmt: skip
    loader = DataLoader(
        clips, batch_sampler=batches, collate_fn=collate, num_workers=config.workers, generator=torch.Generator()
    )

    # -------------------------------------------------------------------------------------------------- model
    model = build_clap(config, tokenizer, audio)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).train()
    frames = round(audio.max_audio_seconds * FRAMES_PER_SECOND)

    # --------------------------------------------------------------------------------------------------- loop
    groups = parameter_groups(model, config.weight_decay)
    optimizer = torch.optim.AdamW(
        groups, lr=config.peak_learning_rate, betas=(config.beta1, config.beta2), eps=config.epsilon
    )
    folder = Path(config.run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config.to_yaml())
    started = time.monotonic()
    with open(folder / "metrics.jsonl", "w") as log:
        for step, batch in enumerate(loader):
            set_learning_rate(optimizer, scheduled(config, step).learning_rate)
            sound = torch.from_numpy(clap_input(batch["input_features"].numpy(), batch["clip_frames"], frames))
            heard = model.get_audio_features(sound.to(device)).pooler_output
            read = model.get_text_features(batch["input_ids"].to(device), batch["attention_mask"].to(device))
            scale = model.logit_scale_a.exp()  # one scale for both directions, as SLAP
            loss = global_contrastive_loss(heard, read.pooler_output, scale, batch["groups"].to(device))
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip, error_if_nonfinite=True)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                model.logit_scale_a.clamp_(max=np.log(100.0))
            if (step + 1) % config.log_every == 0 or step + 1 == config.total_steps:
                row = {"step": step + 1, "contrastive": loss.item(), "gradient_norm": norm.item()}
                log.write(json.dumps({**row, "seconds": time.monotonic() - started}) + "\n")
                print(f"step {step + 1} of {config.total_steps}: {loss.item():.3f} nats", flush=True)

    # ------------------------------------------------------------------------------------------------- export
    model.eval().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    extractor.save_pretrained(folder / "model")
    print(f"model: {folder / 'model'}")
    return folder / "model"


def build_clap(config: ClapTrainConfig, tokenizer, audio: SlapAudioConfig) -> ClapModel:
    """The model of the configuration from random weights, vocabulary and special tokens those of the tokenizer."""
    given = {name: dict(value) if isinstance(value, dict) else value for name, value in config.clap.items()}
    factor = given.pop("initializer_factor", 1.0)
    given["text_config"] = {
        **given.get("text_config", {}),
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "initializer_factor": factor,
        "max_position_embeddings": config.max_caption_tokens + tokenizer.pad_token_id + 1,  # they start behind padding
    }
    given["audio_config"] = {
        **given.get("audio_config", {}), "num_mel_bins": audio.num_mel_bins, "initializer_factor": factor
    }  # fmt: skip
    return ClapModel(ClapConfig(**given, initializer_factor=factor))


def clap_input(packed: np.ndarray, clip_frames: Sequence[int], frames: int) -> np.ndarray:
    """(B, 1, frames, M) of clips that lie one behind another in (F, M): each repeated to the full length, or cut to it.

    CLAP's "repeatpad"; its own fills the rest that no whole repetition fits into with zeros.
    """
    clips = np.split(packed, np.cumsum(clip_frames)[:-1])
    return np.stack([clip[np.arange(frames) % len(clip)] for clip in clips])[:, None]


if __name__ == "__main__":
    main()
