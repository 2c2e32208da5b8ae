"""Pretrains SLAP: contrastive, masked-prediction and captioning losses on captioned audio of any duration.

    accelerate launch examples/pretrain.py --config examples/configs/tiny.yaml
    accelerate launch examples/pretrain.py --config examples/configs/tiny.yaml --resume
    accelerate launch examples/pretrain.py --config examples/configs/tiny.yaml total_steps=100 masked_weight=0

Plain `python` runs it on one device; `accelerate launch` on as many as it is told of (on a CPU with one thread,
unless told `--num_cpu_threads_per_process`). Top to bottom: config, data, model, optimizer, resume, loop, export.
"""

import argparse
import copy
import functools
import itertools
import math
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from hf_slap import AudioError, SlapFeatureExtractor, SlapForPreTraining, SlapProcessor, save_folder
from hf_slap.checkpoint import last_checkpoint, load_checkpoint, save_checkpoint
from hf_slap.data import (
    ClipSettings,
    PretrainCollator,
    PretrainDataset,
    load_corpus,
    plan_epoch,
    rank_batches,
    train_tokenizer,
)
from hf_slap.distributed import (
    gather_rows,
    is_main,
    raise_together,
    rank,
    sum_over_ranks,
    wait_for_everyone,
    world_size,
)
from hf_slap.evaluation.retrieval import relevance, retrieval_scores
from hf_slap.evaluation.zero_shot import zero_shot_scores
from hf_slap.objectives import (
    AudioTeacher,
    draw_patch_mask,
    freeze_prototypes,
    keep_trainable,
    model_inputs,
    pretraining_losses,
    prototype_statistics,
)
from hf_slap.optimization import parameter_groups, scheduled, set_learning_rate
from hf_slap.training_config import TrainConfig
from hf_slap.training_log import TrainingLog, draw_losses, note_skipped, print_summary, read_metrics


def main(arguments: list[str] | None = None) -> Path:
    """Runs the pretraining that the command line asks for; returns the folder of the exported model."""
    # ------------------------------------------------------------------------------------------------- config
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML file: the fields of TrainConfig that differ from its defaults")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint, if there is one")
    parser.add_argument("overrides", nargs="*", help="key=value, such as total_steps=100 clips.mask_ratio=0.6")
    parsed = parser.parse_args(arguments)
    config = TrainConfig.load(parsed.config, parsed.overrides)
    run_folder = Path(config.run_folder)
    checkpoints = run_folder / "checkpoints"

    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # unasked, Accelerate leaves processes on CPUs apart
        mixed_precision="bf16" if computes_bf16(config.precision) else "no",
        log_with=None if config.tracker == "none" else config.tracker,
        project_dir=run_folder,
    )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise NotImplementedError(
            f"{accelerator.distributed_type.value} is not served yet: the teacher and the export read whole weights; "
            "launch with --multi_gpu (DDP)"
        )
    if accelerator.num_processes != world_size():
        raise RuntimeError(f"Accelerate sees {accelerator.num_processes} processes, torch {world_size()}")
    checkpoint = last_checkpoint(checkpoints)
    if checkpoint and not parsed.resume:
        parser.error(f"{run_folder} holds {checkpoint.name}; pass --resume to go on, or another run_folder=...")
    if is_main():
        print(config.to_yaml())
    set_seed(config.seed)

    # --------------------------------------------------------------------------------------------------- data
    with accelerator.main_process_first():  # the others read what the first has put into the cache
        corpus = load_corpus(config.train_data, config.train_split)
        held_out = load_corpus(config.validation_data, config.validation_split) if config.validation_data else None
    tokenizer = build_tokenizer(config, corpus)
    durations = list(corpus["duration"])

    # -------------------------------------------------------------------------------------------------- model
    model = build_model(config, tokenizer)
    audio = model.config.audio_config
    extractor = SlapFeatureExtractor(feature_size=audio.num_mel_bins, patch_frames=audio.patch_frames)
    keep_trainable(model, config.loss_weights)
    if config.gradient_checkpointing:
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    torch.manual_seed(config.seed + rank())  # weights are alike on all ranks, dropout need not be
    teacher = AudioTeacher(model, config.centering).to(accelerator.device) if config.masked_weight else None
    if config.compile_layers:
        for layer in model.slap.audio_model.layers:
            layer.compile(dynamic=True)  # once for all lengths; attention itself stays outside
    settings = ClipSettings(
        **config.clips,
        seed=config.seed,
        max_seconds=audio.max_audio_seconds,
        patch_frames=audio.patch_frames,
        patch_bins=audio.patch_bins,
    )
    clips = PretrainDataset(corpus, extractor, functools.partial(draw_patch_mask, kind=config.mask_kind), settings)
    collate = PretrainCollator(tokenizer, config.max_caption_tokens, model.config.eos_token_id)

    # ---------------------------------------------------------------------------------------------- optimizer
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.peak_learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
    )
    wrapped, prepared_optimizer = accelerator.prepare(model, optimizer)

    # ------------------------------------------------------------------------------------------------- resume
    first_step = 0
    if checkpoint:
        state = load_checkpoint(checkpoint, wrapped, optimizer, teacher, config.settings())
        first_step = state["step"]
        accelerator.print(f"continuing after step {first_step}, from {checkpoint}")
    last_step = min(config.total_steps, config.stop_step or config.total_steps)
    batches = training_batches(config, durations, audio.max_audio_seconds, first_step, last_step)
    loader = DataLoader(
        clips,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=config.workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, or starting the loader would draw from torch's random state
    )

    # --------------------------------------------------------------------------------------------------- loop
    weights = config.loss_weights
    started = time.monotonic()
    if is_main():
        run_folder.mkdir(parents=True, exist_ok=True)
        (run_folder / "config.yaml").write_text(config.to_yaml())
    if config.tracker != "none":
        purge = {"tensorboard": {"purge_step": first_step + 1}} if config.tracker == "tensorboard" else {}
        accelerator.init_trackers("slap", {"config": config.to_yaml()}, init_kwargs=purge)
    with TrainingLog(run_folder, config.total_steps, first_step, accelerator.log, is_main()) as log:
        for step, batch in enumerate(loader, start=first_step):
            note_skipped(batch["skipped"], run_folder)
            batch = {k: v.to(accelerator.device) if torch.is_tensor(v) else v for k, v in batch.items()}
            now = scheduled(config, step)
            set_learning_rate(optimizer, now.learning_rate)

            targets = None
            if teacher is not None:
                with accelerator.autocast():
                    scores = teacher(batch["teacher_features"], batch["clip_frames"], batch["patch_mask"])
                targets = teacher.probabilities(scores, now.teacher_temperature)
            outputs = wrapped(**model_inputs(batch, weights), shared_masked_pass=config.shared_masked_pass)
            losses = pretraining_losses(
                outputs, batch, weights, targets, config.student_temperature, config.label_smoothing
            )
            refuse_not_finite(step, losses, batch["ids"], checkpoints)

            accelerator.backward(losses["total"])
            freeze_prototypes(model, step, config.freeze_prototypes_steps)
            gradient_norm = accelerator.clip_grad_norm_(wrapped.parameters(), config.gradient_clip)
            prepared_optimizer.step()
            model.slap.clamp_logit_scale()
            prepared_optimizer.zero_grad()
            if teacher is not None:
                teacher.update(model, now.teacher_momentum)

            done = step + 1  # steps, not the index of one
            is_last = done == config.total_steps
            log.heard(done, total_over_ranks(batch["audio_seconds"], accelerator.device))
            if done % config.log_every == 0 or is_last:
                values = {name: float(sum_over_ranks(loss)) / world_size() for name, loss in losses.items()}
                values |= {
                    "gradient_norm": float(gradient_norm),
                    "logit_scale": outputs.logit_scale.item(),
                    "clips": total_over_ranks(len(batch["ids"]), accelerator.device),
                    **now._asdict(),
                    **(prototype_statistics(targets) if teacher is not None else {}),
                }
                log.train(done, values)
            if held_out and config.contrastive_weight and (done % config.validate_every == 0 or is_last):
                with accelerator.autocast():
                    values = validate(model, extractor, tokenizer, held_out, config)
                log.validation(done, values)
            if done % config.checkpoint_every == 0 or done == last_step:
                save_checkpoint(
                    checkpoints,
                    done,
                    wrapped,
                    optimizer,
                    teacher,
                    settings=config.settings(),
                    keep=config.keep_checkpoints,
                )
    if last_step < config.total_steps:
        accelerator.print(f"stopped after step {last_step} of {config.total_steps}; go on with --resume")
        accelerator.end_training()
        return checkpoints

    # ------------------------------------------------------------------------------------------------- export
    folder = run_folder / "model"
    if is_main():
        save_folder(folder, model.eval(), SlapProcessor(feature_extractor=extractor, tokenizer=tokenizer))
        knowing_nothing = {
            "contrastive": math.log(np.mean([row["clips"] for row in read_metrics(run_folder) if "clips" in row])),
            "masked": math.log(model.config.num_prototypes),
            "caption": math.log(len(tokenizer)),
        }
        picture = draw_losses(run_folder, knowing_nothing)
        print_summary(run_folder, time.monotonic() - started)
        print(
            f"model: {folder}\nloss curves: {picture}\nnext, classify a clip by words of your own:\n"
            "  import hf_slap; from transformers import pipeline\n"
            f'  classify = pipeline("zero-shot-audio-classification", model="{folder}")\n'
            '  classify("clip.wav", candidate_labels=["a dog", "rain", "a guitar"])'
        )
    wait_for_everyone()
    accelerator.end_training()
    return folder


def computes_bf16(precision: str) -> bool:
    """Whether the run computes in bfloat16; "auto" does where the device has it in hardware."""
    return precision == "bf16" or (
        precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    )


def build_tokenizer(config: TrainConfig, corpus):
    """The tokenizer that is named, or one trained on the captions; always with a padding token."""
    if config.tokenizer == "captions":
        captions = itertools.chain.from_iterable(corpus["captions"])
        return train_tokenizer(captions, max_length=config.max_caption_tokens)
    tokenizer = AutoTokenizer.from_pretrained(config.tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def build_model(config: TrainConfig, tokenizer) -> SlapForPreTraining:
    """The model of the configuration, its vocabulary and special tokens those of the tokenizer."""
    keywords = copy.deepcopy(config.model)
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    last = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    ids = {"bos_token_id": first, "eos_token_id": last, "pad_token_id": tokenizer.pad_token_id}
    vocabulary = {"vocab_size": len(tokenizer)}
    if config.text_model is None:
        marks = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
        keywords["text_config"] = {**keywords.get("text_config", {}), **vocabulary, **ids, **marks}
    if isinstance(keywords.get("decoder_config", {}), dict):
        keywords["decoder_config"] = {**keywords.get("decoder_config", {}), **vocabulary}
    model = SlapForPreTraining.from_audio_text_pretrained(text=config.text_model, **keywords, **ids)
    decoder = model.config.decoder_config
    if decoder is not None and config.max_caption_tokens > decoder.max_position_embeddings:
        raise ValueError(
            f"max_caption_tokens={config.max_caption_tokens} is more than the decoder's max_position_embeddings="
            f"{decoder.max_position_embeddings}; lower the one or raise the other in model.decoder_config"
        )
    return model.train()  # a tower that was loaded comes with its dropout off


def training_batches(config: TrainConfig, durations: list[float], max_seconds: float, first_step: int, last_step: int):
    """This rank's batches of the steps from `first_step` on, epoch after epoch: a function of the seed
    alone."""
    step = 0
    for epoch in itertools.count():
        plan = plan_epoch(
            durations, config.batch_seconds, config.seed, epoch, max_seconds, config.max_batch_clips,
            min_clips=max(2, world_size()),
        )  # fmt: skip
        if step + len(plan) > first_step:
            epoch_batches = rank_batches(plan, durations, epoch, rank(), world_size(), max_seconds)
            yield from epoch_batches[max(first_step - step, 0) : last_step - step]
        step += len(plan)
        if step >= last_step:
            return


def total_over_ranks(number: float, device: torch.device) -> float:
    """The sum of every rank's number."""
    return float(sum_over_ranks(torch.tensor(number, dtype=torch.float32, device=device)))


def refuse_not_finite(step: int, losses: dict, ids: list[str], checkpoints: Path) -> None:
    """Stops the run on every rank where a loss is not finite, naming the clips; the weights are still good."""
    error = None
    if not torch.isfinite(losses["total"]):
        parts = {name: loss.item() for name, loss in losses.items()}
        error = FloatingPointError(
            f"the loss of step {step + 1} is not finite: {parts}; clips {ids}. The last good checkpoint is "
            f"{last_checkpoint(checkpoints)}; lower peak_learning_rate, or leave these clips out"
        )
    raise_together(error)


@torch.no_grad()
def validate(model, extractor, tokenizer, held_out, config: TrainConfig, texts_at_once: int = 256) -> dict:
    """Retrieval of held-out clips by caption and the other way round, and zero-shot classification by label.

    Every rank embeds a part of the clips; all of them know the numbers. Clips that cannot be heard are left out and
    listed.
    """
    slap, device = model.slap.eval(), model.device
    rows, embeds = [], [torch.zeros(0, model.config.projection_dim, device=device)]
    for row in range(rank(), len(held_out), world_size()):
        clip = held_out[row]
        try:
            waveform = extractor.load(clip["audio"], name=clip["id"])
        except AudioError as reason:
            note_skipped([(clip["id"], str(reason))], Path(config.run_folder))
            continue
        features = torch.from_numpy(extractor.log_mel(waveform)).to(device)
        embeds.append(slap.get_audio_features(features[None]).pooler_output.float())
        rows.append(row)
    rows = gather_rows(torch.tensor(rows, dtype=torch.long, device=device))
    if not len(rows):
        raise ValueError("not one clip of validation_data can be heard; see skipped_clips.jsonl")
    audio = gather_rows(torch.cat(embeds))[rows.argsort()].cpu().numpy()
    held_out = held_out.select(rows.sort().values.tolist())

    def embed(texts: list[str]) -> np.ndarray:
        embeds = []
        for start in range(0, len(texts), texts_at_once):
            tokens = tokenizer(
                texts[start : start + texts_at_once], padding=True, truncation=True,
                max_length=config.max_caption_tokens, return_tensors="pt",
            ).to(device)  # fmt: skip
            embeds.append(slap.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output)
        return torch.cat(embeds).float().cpu().numpy()

    captions, relevant = relevance(held_out["captions"])
    scores = retrieval_scores(audio, embed(captions), relevant)
    values = {
        f"{way} {measure}": scores[way.replace(" ", "_")][measure]
        for way in ("text to audio", "audio to text")
        for measure in ("recall@1", "recall@10", "map@10")
    }
    if "label" in held_out.column_names:
        labels = sorted(set(held_out["label"]))
        prompts = embed([config.zero_shot_prompt.format(label=label) for label in labels])
        target = [labels.index(label) for label in held_out["label"]]
        result = zero_shot_scores(audio @ prompts.T, target, labels)
        values |= {"zero-shot accuracy": result.accuracy, "chance": result.chance}
    model.train()
    return values


if __name__ == "__main__":
    main()
