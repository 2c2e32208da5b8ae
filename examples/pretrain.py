"""Pretrains SLAP: contrastive, masked-prediction and captioning losses on captioned audio of any duration.

    accelerate launch examples/pretrain.py --config examples/configs/tiny.yaml
    accelerate launch examples/pretrain.py --config examples/configs/tiny.yaml --resume
    accelerate launch examples/pretrain.py --config examples/configs/tiny.yaml total_steps=100 masked_weight=0

Plain `python` runs it on one device; `accelerate launch` on as many as it is told of (on a CPU with one thread,
unless told `--num_cpu_threads_per_process`). Top to bottom: config, data, model, optimizer, resume, loop, export.
"""

import argparse
import functools
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from hf_slap import AudioError, SlapFeatureExtractor, SlapForPreTraining, SlapProcessor, save_folder
from hf_slap.checkpoint import (
    average_weights,
    checkpoint_to_resume,
    last_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from hf_slap.collapse import CollapseWatch
from hf_slap.compute import matmul_rate, step_operations
from hf_slap.data import (
    ClipSettings,
    PretrainCollator,
    PretrainDataset,
    clip_times,
    end_texts,
    epoch_orders,
    load_corpus,
    run_batches,
    take_fraction,
    train_tokenizer,
)
from hf_slap.distributed import (
    gather_rows,
    is_main,
    main_first,
    on_main,
    rank,
    together,
    wait_for_everyone,
    world_size,
)
from hf_slap.engine import computes_bf16, end_run, gathered, start_engine, whole_model, wrap
from hf_slap.evaluation.retrieval import relevance, retrieval_scores
from hf_slap.evaluation.while_training import ZeroShotTasks
from hf_slap.evaluation.zero_shot import zero_shot_scores
from hf_slap.held_out import BestWeights, HeldOut
from hf_slap.modeling.losses_slap import contrastive_loss, sigmoid_contrastive_loss
from hf_slap.objectives import AudioTeacher, draw_patch_mask, keep_trainable
from hf_slap.optimization import scheduled
from hf_slap.pictures import draw_health, draw_losses
from hf_slap.pretraining_step import pretraining_step
from hf_slap.skipped_steps import SKIPPED_FILE, SkippedSteps, TooManySkippedSteps
from hf_slap.starting_points import freeze, layerwise_groups, model_keywords, resumed_model, take_start, tell_start
from hf_slap.telemetry import Speed, StepTelemetry
from hf_slap.training_config import TrainConfig
from hf_slap.training_log import TrainingLog, note_skipped, print_summary, read_metrics, tracker_settings


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

    accelerator = start_engine(
        computes_bf16(config.precision),
        log_with=None if config.tracker == "none" else config.tracker,
        project_dir=run_folder,
    )
    checkpoint = checkpoint_to_resume(checkpoints)
    if checkpoint and not parsed.resume:
        parser.error(f"{run_folder} holds {checkpoint.name}; pass --resume to go on, or another run_folder=...")
    if is_main():
        print(config.to_yaml())
    set_seed(config.seed)

    # --------------------------------------------------------------------------------------------------- data
    with accelerator.main_process_first():  # the others read what the first has put into the cache
        corpus = take_fraction(load_corpus(config.train_data, config.train_split), config.data_fraction)
        held_out = load_corpus(config.validation_data, config.validation_split) if config.validation_data else None
        tasks = ZeroShotTasks(config.zero_shot_tasks, config.zero_shot_data)
    tokenizer = build_tokenizer(config, corpus)
    durations = corpus.with_format("arrow")["duration"][:].to_numpy()
    times = clip_times(corpus, config.source_weights, config.balance_labels)
    order = epoch_orders(times, config.seed)

    # -------------------------------------------------------------------------------------------------- model
    if checkpoint:
        model, report = resumed_model(SlapForPreTraining, run_folder), None
    else:
        model, report = main_first(lambda: build_model(config, tokenizer))
    audio = model.config.audio_config
    extractor = SlapFeatureExtractor.for_audio_config(audio)
    keep_trainable(model, config.loss_weights)
    freeze(model, config.frozen)
    if report:
        on_main(lambda: tell_start(run_folder, model, report, config.frozen))
    if config.gradient_checkpointing:
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    torch.manual_seed(config.seed + rank())  # weights are alike on all ranks, dropout need not be
    teacher = AudioTeacher(model, config.centering) if config.masked_weight else None
    if config.compile_layers:
        for layer in getattr(model.slap.audio_model, "layers", [model.slap.audio_model]):
            layer.compile(dynamic=True)  # once for all lengths; attention itself stays outside
    wrapped = wrap(accelerator, model, teacher)
    settings = ClipSettings(
        **config.clips,
        seed=config.seed,
        parallel_caption_share=config.parallel_caption_share,
        max_seconds=audio.max_audio_seconds,
        patch_frames=audio.patch_frames,
        patch_bins=audio.patch_bins,
    )
    draw_mask = functools.partial(draw_patch_mask, kind=config.mask_kind)
    clips = PretrainDataset(corpus, extractor, draw_mask, settings, times)
    collate = PretrainCollator(tokenizer, config.max_caption_tokens, model.config.eos_token_id, clips.silence)

    # ---------------------------------------------------------------------------------------------- optimizer
    optimizer = torch.optim.AdamW(
        layerwise_groups(model, config.weight_decay, config.layer_decay),
        lr=config.peak_learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
    )
    prepared_optimizer = accelerator.prepare_optimizer(optimizer)

    # ------------------------------------------------------------------------------------------------- resume
    first_step, state = 0, {}
    if checkpoint:
        state = load_checkpoint(checkpoint, wrapped, optimizer, teacher, config.settings())
        first_step = state["step"]
        accelerator.print(f"continuing after step {first_step}, from {checkpoint}")
    last_step = min(config.total_steps, config.stop_step or config.total_steps)
    if hasattr(audio, "window_frames"):  # a short clip is filled up, and costs as much as a long one
        durations = np.maximum(durations, audio.max_audio_seconds)
    batches = run_batches(
        durations, config.batch_seconds, config.seed, first_step, last_step, rank(), world_size(),
        audio.max_audio_seconds, config.max_batch_clips, config.accumulation_steps, order,
    )  # fmt: skip
    loader = DataLoader(
        clips,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=config.workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, or starting the loader would draw from torch's random state
    )

    # --------------------------------------------------------------------------------------------------- loop
    started = time.monotonic()
    if is_main():
        run_folder.mkdir(parents=True, exist_ok=True)
        (run_folder / "config.yaml").write_text(config.to_yaml())
    if config.tracker != "none":
        same_run = tracker_settings(config.tracker, run_folder, first_step) if is_main() else {}
        accelerator.init_trackers("slap", {"config": config.to_yaml()}, init_kwargs=same_run)
    skipped = SkippedSteps(run_folder, config.max_skipped_steps, config.max_skipped_share, state, first_step, is_main())
    follow = HeldOut(config, state)
    counters_when_good = follow.counters
    save = functools.partial(
        save_checkpoint, checkpoints, model=wrapped, optimizer=optimizer, teacher=teacher,
        settings=config.settings(), keep=config.keep_checkpoints,
    )  # fmt: skip
    precision = torch.bfloat16 if computes_bf16(config.precision) else torch.float32
    rate = matmul_rate(accelerator.device, precision)
    speed = Speed(accelerator.device, step_operations(model, config.loss_weights, config.shared_masked_pass), rate)
    watch = CollapseWatch(max(config.warmup_steps, config.freeze_prototypes_steps))
    with TrainingLog(run_folder, config.total_steps, first_step, accelerator.log, is_main(), watch) as log:
        micro_batches = speed.watch(together(loader))
        for step, batches in enumerate(zip(*[micro_batches] * config.accumulation_steps, strict=True), first_step):
            done = step + 1  # steps, not the index of one
            is_last = done == config.total_steps
            is_logged = done % config.log_every == 0 or is_last
            telemetry = StepTelemetry() if is_logged else None
            if not skipped.in_a_row:
                counters_when_good = follow.counters
            for batch in batches:
                note_skipped(batch["skipped"], run_folder)
            result = pretraining_step(
                accelerator, wrapped, prepared_optimizer, teacher, batches, step, config, telemetry, follow.lowered
            )
            skipped.note(done, result.skipped, result.batches)
            if why := skipped.too_many(done):
                give_up(why, done, skipped, counters_when_good, checkpoints, save)
            log.heard(done, result.audio_seconds)
            if is_logged and not result.skipped:
                values = {
                    **telemetry.values(),
                    **result.losses,
                    "gradient_norm": result.gradient_norm,
                    "clips": result.clips,
                    "skipped_steps": skipped.count,
                    **scheduled(config, step, follow.lowered)._asdict(),
                    **speed.values(),
                }
                log.train(done, values)
            validates = (held_out or tasks.tasks) and config.contrastive_weight
            if validates and (done % config.validate_every == 0 or is_last):
                with accelerator.autocast(), gathered(accelerator, model):
                    values = validate(model, extractor, tokenizer, held_out, config, tasks)
                log.validation(done, values)
                if follow.note(done, values):
                    keep_best(follow.best, model)
                speed.restart()
            if done % config.checkpoint_every == 0 or done == last_step:
                save(done, counters={**skipped.counters, **follow.counters})
                if follow.best:
                    on_main(follow.best.forget_others)
                speed.restart()
    if last_step < config.total_steps:
        accelerator.print(f"stopped after step {last_step} of {config.total_steps}; go on with --resume")
        end_run(accelerator)
        return checkpoints

    # ------------------------------------------------------------------------------------------------- export
    folder = run_folder / "model"
    whole = whole_model(model)
    if is_main():
        if config.average_checkpoints > 1:
            whole.load_state_dict(average_weights(checkpoints, config.average_checkpoints))
        if follow.best:
            whole.load_state_dict(follow.best.weights())
        save_folder(folder, whole.eval(), SlapProcessor(feature_extractor=extractor, tokenizer=tokenizer))
        clips = np.mean([row["clips"] for row in read_metrics(run_folder) if "clips" in row])
        wrong_pairs = (clips - 1) * math.log(clips / (clips - 1)) if whole.slap.bias is not None else 0.0
        knowing_nothing = {
            "contrastive": math.log(clips) + wrong_pairs,
            "masked": math.log(model.config.num_prototypes),
            "caption": math.log(len(tokenizer)),
        }
        pictures = filter(None, (draw_losses(run_folder, knowing_nothing), draw_health(run_folder)))
        print_summary(run_folder, time.monotonic() - started)
        if follow.best:
            print(f"exported: step {follow.best.step}, the best held-out {config.select_by}: {follow.best.value:.3f}")
        print(
            f"model: {folder}\npictures: {', '.join(map(str, pictures))}\n"
            "next, classify a clip by words of your own:\n"
            "  import hf_slap; from transformers import pipeline\n"
            f'  classify = pipeline("zero-shot-audio-classification", model="{folder}")\n'
            '  classify("clip.wav", candidate_labels=["a dog", "rain", "a guitar"])'
        )
    wait_for_everyone()
    end_run(accelerator)
    return folder


def build_tokenizer(config: TrainConfig, corpus):
    """The tokenizer that is named, or one trained on the captions; always with a padding token."""
    if config.tokenizer == "captions":
        captions = itertools.chain.from_iterable(corpus["captions"])
        return train_tokenizer(captions, max_length=config.max_caption_tokens)
    tokenizer = AutoTokenizer.from_pretrained(config.tokenizer)
    if config.model.get("text_pooling") == "last":
        return end_texts(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def build_model(config: TrainConfig, tokenizer) -> tuple[SlapForPreTraining, list]:
    """The model of the configuration, its vocabulary and special tokens those of the tokenizer, and what of it was
    loaded from where."""
    keywords = model_keywords(config.model, config.start_from, config.audio_from)
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    last = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    ids = {"bos_token_id": first, "eos_token_id": last, "pad_token_id": tokenizer.pad_token_id}
    vocabulary = {"vocab_size": len(tokenizer)} if config.start_from is None else {}  # its own may have spare rows
    if config.text_model is None:
        marks = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
        keywords["text_config"] = {**keywords.get("text_config", {}), **vocabulary, **ids, **marks}
    if isinstance(keywords.get("decoder_config", {}), dict):
        at_once = {"parallel": True} if config.parallel_caption_share else {}
        keywords["decoder_config"] = {**keywords.get("decoder_config", {}), **vocabulary, **at_once}
    model = SlapForPreTraining.from_audio_text_pretrained(text=config.text_model, **{**keywords, **ids})
    if config.masked_weight and model.prototype_head is None:
        kind = model.config.audio_config.model_type
        raise ValueError(
            f"masked_weight={config.masked_weight}, but an audio encoder of kind {kind!r} hears whole windows and has "
            "no mask token, so it is not trained by masked prediction; set masked_weight=0"
        )
    report = take_start(model, config.start_from, config.audio_from, config.text_model)
    decoder = model.config.decoder_config
    if decoder is not None and config.max_caption_tokens > decoder.max_position_embeddings:
        raise ValueError(
            f"max_caption_tokens={config.max_caption_tokens} is more than the decoder's max_position_embeddings="
            f"{decoder.max_position_embeddings}; lower the one or raise the other in model.decoder_config"
        )
    return model.train(), report  # a tower that was loaded comes with its dropout off


def keep_best(best: BestWeights, model: SlapForPreTraining) -> None:
    """Keeps the weights as the best so far. Call on every rank."""
    whole = whole_model(model)
    on_main(lambda: best.keep(whole))


def give_up(
    why: str, done: int, skipped: SkippedSteps, held_out: dict, checkpoints: Path, save: Callable[..., Path]
) -> None:
    """Stops the run after too many skipped steps; the last good one is in a checkpoint, so no training is lost."""
    good, last = done - skipped.in_a_row, last_checkpoint(checkpoints)
    if good and (last is None or last.name < f"step-{good:08d}"):  # a later one has the same weights
        last = save(good, counters={**skipped.counters_when_good, **held_out})
    kept = f"The last good step is {good}, in checkpoint {last}" if last else "No step was good"
    raise TooManySkippedSteps(
        f"{why} were skipped; {SKIPPED_FILE} in {checkpoints.parent} says why and lists their clips. {kept}. Leave "
        "these clips out or lower peak_learning_rate, in a new run; --resume tries the same steps again, and with a "
        "larger max_skipped_steps goes past them"
    )


@torch.no_grad()
def validate(
    model, extractor, tokenizer, held_out, config: TrainConfig, tasks: ZeroShotTasks, texts_at_once: int = 256
) -> dict:
    """Retrieval of held-out clips by caption and the other way round, zero-shot classification by label, the
    contrastive loss of all of them against each other (each with its first caption), and the scores of the tasks.

    Every rank embeds a part of the clips; all of them know the numbers. Clips that cannot be heard are left out and
    listed.
    """
    slap, device = model.slap.eval(), model.device

    def embed_clips(clips) -> tuple[np.ndarray, np.ndarray]:
        rows, embeds = [], [torch.zeros(0, model.config.projection_dim, device=device)]
        for row in range(rank(), len(clips), world_size()):
            clip = clips[row]
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
            raise ValueError("not one clip of a validation set can be heard; see skipped_clips.jsonl")
        return gather_rows(torch.cat(embeds))[rows.argsort()].cpu().numpy(), rows.sort().values.cpu().numpy()

    def embed_texts(texts: list[str]) -> np.ndarray:
        embeds = []
        for start in range(0, len(texts), texts_at_once):
            tokens = tokenizer(
                texts[start : start + texts_at_once], padding=True, truncation=True,
                max_length=config.max_caption_tokens, return_tensors="pt",
            ).to(device)  # fmt: skip
            embeds.append(slap.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output)
        return torch.cat(embeds).float().cpu().numpy()

    values = {}
    if held_out:
        audio, rows = embed_clips(held_out)
        clips = held_out.select(rows)
        captions, relevant = relevance(clips["captions"])
        texts = embed_texts(captions)
        scores = retrieval_scores(audio, texts, relevant)
        values = {
            f"{way} {measure}": scores[way.replace(" ", "_")][measure]
            for way in ("text to audio", "audio to text")
            for measure in ("recall@1", "recall@10", "map@10")
        }
        values["contrastive loss"] = held_out_loss(slap, audio, texts, relevant)
        if "label" in clips.column_names:
            labels = sorted(set(clips["label"]))
            prompts = embed_texts([config.zero_shot_prompt.format(label=label) for label in labels])
            target = [labels.index(label) for label in clips["label"]]
            result = zero_shot_scores(audio @ prompts.T, target, labels)
            values |= {"zero-shot accuracy": result.accuracy, "chance": result.chance}
    values |= tasks.scores(embed_clips, embed_texts)
    model.train()
    return values


def held_out_loss(slap, audio: np.ndarray, texts: np.ndarray, relevant: np.ndarray) -> float:
    """The contrastive loss of N clips, each with the first text that describes it; a clip that the text of another one
    describes too is not its negative."""
    first = relevant.argmax(1)
    ignore = torch.from_numpy(relevant[:, first])
    audio, texts, scale = torch.from_numpy(audio), torch.from_numpy(texts[first]), slap.scale.cpu()
    if slap.bias is not None:
        return float(sigmoid_contrastive_loss(audio, texts, scale, slap.bias.cpu(), ignore))
    return float(contrastive_loss(audio, texts, scale, ignore))


if __name__ == "__main__":
    main()
