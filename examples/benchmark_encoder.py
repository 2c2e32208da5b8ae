"""Speed of SLAP-base against rivals and against the machine, as ratios measured within one run.

    python examples/benchmark_encoder.py                  # about 10 minutes on one CPU core
    python examples/benchmark_encoder.py --rounds 1       # a glance
    python examples/benchmark_encoder.py --device cuda    # bf16, forward and training, against the card's own rate

Weights are random: this measures speed alone. On CPU every figure is the process's CPU time on one thread, variants
take turns in random order, the median of the rounds counts, and results are checked for equality before timing.
Prints one table; writes benchmark.json and benchmark.png.

The rivals are built from their configurations: transformers' `ClapModel` in its default and its large size (48 kHz,
hears at most 10 s and stretches every clip to that), and open_clip's NaFlex CLAP of base size (timm's NaFlexVit; 50
patches per second, pads to the longest clip). `pip install -e ".[benchmark]"` brings timm, which needs a torchvision
that fits torch.
"""

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank, spectrogram

from hf_slap import SlapAudioConfig, SlapAudioModel, SlapFeatureExtractor
from hf_slap.compute import audio_operations, matmul_probe
from hf_slap.data import plan_epoch, share
from hf_slap.quantization import quantize_int8

EQUAL = [10.0] * 4
SEED = 3
CURVE = (1, 2, 5, 10, 20, 30, 60)  # seconds


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"), help="folder of the JSON and the plot")
    parser.add_argument("--no-rivals", action="store_true", help="only this package")
    parsed = parser.parse_args(arguments)
    torch.manual_seed(SEED)
    if parsed.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here; leave --device out to measure the CPU")
    result = on_cuda(parsed.rounds) if parsed.device == "cuda" else on_cpu(parsed.rounds, not parsed.no_rivals)
    result["environment"] = environment(parsed)
    parsed.output.mkdir(parents=True, exist_ok=True)
    (parsed.output / "benchmark.json").write_text(json.dumps(result, indent=1) + "\n")
    print_table(result)
    if "curve" in result:
        draw(result, parsed.output / "benchmark.png")
    return result


# ------------------------------------------------------------------------------------------------------- workload
def mixed_durations(clips: int = 12) -> list[float]:
    """Seconds of clips, log-uniform between 1 and 30."""
    return np.exp(np.random.default_rng(SEED).uniform(0, np.log(30), clips)).round(2).tolist()


def packed_features(seconds: list[float]) -> tuple[Tensor, list[int]]:
    """Random log-mel frames of clips, one after another, and the frames of each."""
    frames = [(1 + int(s * 100)) // 16 * 16 for s in seconds]
    return torch.randn(sum(frames), 64), frames


def padded_features(seconds: list[float]) -> Tensor:
    """(B, F, M): what a model that pads computes; every frame counts as sound."""
    return torch.randn(len(seconds), max(packed_features(seconds)[1]), 64)


def clap_model(large: bool) -> nn.Module:
    """transformers' CLAP audio tower with random weights."""
    size = {"patch_embeds_hidden_size": 128, "hidden_size": 1024, "depths": [2, 2, 12, 2]} if large else {}
    config = transformers.ClapAudioConfig(**size)
    return transformers.ClapAudioModel._from_config(config).eval()


def naflex_model() -> nn.Module:
    """The audio tower of open_clip's `naflexclap_base_pf8_pt16`, from the values of its configuration."""
    from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg

    config = NaFlexVitCfg(
        patch_size=(8, 16), embed_proj_type="linear", pos_embed="none", rope_type="axial", global_pool="map",
        embed_dim=768, depth=12, num_heads=12, init_values=1e-5, reg_tokens=1, pre_norm=True,
    )  # fmt: skip
    return NaFlexVit(config, in_chans=1, num_classes=0).eval()


def naflex_inputs(seconds: list[float]) -> dict[str, Tensor]:
    """Patches of 8 bins x 16 frames of 10 ms, padded to the longest clip."""
    columns = [max(1, int(s * 100) // 16) for s in seconds]
    longest = max(columns)
    grid = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(longest), indexing="ij"), -1).flatten(0, 1)
    valid = torch.arange(longest)[None] < torch.tensor(columns)[:, None]
    return {
        "patches": torch.randn(len(seconds), 8 * longest, 128),
        "patch_coord": grid[None].expand(len(seconds), -1, -1),
        "patch_valid": valid[:, None, :].expand(-1, 8, -1).flatten(1),
    }


# ------------------------------------------------------------------------------------------------------------ CPU
def on_cpu(rounds: int, with_rivals: bool) -> dict:
    torch.set_num_threads(1)
    unhurried = [*training_rows(), *memory_rows()]  # before the rivals fill the memory
    config = SlapAudioConfig()
    model = SlapAudioModel(config).eval()
    padded = SlapAudioModel(config).eval()
    padded.load_state_dict(model.state_dict())
    int8 = quantize_int8(model)
    workloads = {"4 x 10 s": EQUAL, "mixed": mixed_durations()}
    check_equality(model, workloads["mixed"])

    multiply, multiplied = matmul_probe("cpu", torch.float32, repeats=20)
    variants: dict[str, Callable] = {"matmul": multiply}
    for name, seconds in workloads.items():
        x, frames = packed_features(seconds)
        full = padded_features(seconds)
        variants[f"slap, {name}"] = lambda x=x, n=frames: model(x, clip_frames=n)
        variants[f"slap padded, {name}"] = lambda x=full: padded(x)
        variants[f"slap int8, {name}"] = lambda x=x, n=frames: int8(x, clip_frames=n)
    for seconds in CURVE:
        x, frames = packed_features([seconds])
        variants[f"slap, one of {seconds} s"] = lambda x=x, n=frames: model(x, clip_frames=n)

    missing = {}
    if with_rivals:
        for rival, large in (("clap", False), ("clap large", True)):
            tower = clap_model(large)
            for name, seconds in workloads.items():
                windows = torch.randn(len(seconds), 1, 1001, 64)
                variants[f"{rival}, {name}"] = lambda x=windows, m=tower: m(x)
            one = torch.randn(1, 1, 1001, 64)
            variants[f"{rival}, one"] = lambda x=one, m=tower: m(x)
        try:
            tower = naflex_model()
        except (ImportError, RuntimeError) as reason:  # a torchvision that does not fit raises RuntimeError
            missing["naflex"] = str(reason).splitlines()[0]
        else:
            for name, seconds in [*workloads.items(), *((f"one of {s} s", [s]) for s in CURVE)]:
                inputs = naflex_inputs(seconds)
                variants[f"naflex, {name}"] = lambda x=inputs, m=tower: m(x)
    variants |= feature_variants()

    with torch.inference_mode():
        times = measure(variants, rounds, time.process_time)
    spent = {name: statistics.median(values) for name, values in times.items()}
    rate = multiplied / spent["matmul"]

    rows = []
    frames_of = {name: packed_features(seconds)[1] for name, seconds in workloads.items()}
    for name in workloads:
        share = audio_operations(config, frames_of[name]) / spent[f"slap, {name}"] / rate
        rows.append(row(f"encoder, {name}: share of the machine's float32 matmul rate", share, "at least 0.80"))
    saved = {name: len(n) * max(n) / sum(n) for name, n in frames_of.items()}
    for name in workloads:
        gain = spent[f"slap padded, {name}"] / spent[f"slap, {name}"]
        text = f"padded / packed, {name} (padding: {saved[name]:.2f} times the patches)"
        rows.append(row(text, gain, f"at least {0.95 if name != 'mixed' else saved[name]:.2f}"))
    seconds_heard = {name: sum(seconds) for name, seconds in workloads.items()}
    by_clap = {name: sum(min(s, 10.0) for s in seconds) for name, seconds in workloads.items()}
    targets = {"clap": ("at most 1.90", "at most 0.70"), "clap large": ("at most 1.00", "at most 0.40"),
               "naflex": ("", "at most 0.33")}  # fmt: skip
    for rival, limits in targets.items():
        for name, limit in zip(workloads, limits, strict=True):
            if f"{rival}, {name}" not in spent:
                if with_rivals:
                    rows.append(row(f"packed / {rival}, {name}", None, limit, missing.get(rival, "")))
                continue
            heard = by_clap[name] if rival.startswith("clap") else seconds_heard[name]
            ours = spent[f"slap, {name}"] / seconds_heard[name]
            ratio = ours / (spent[f"{rival}, {name}"] / heard)
            rows.append(row(f"packed / {rival}, {name}, per second of audio heard", ratio, limit))
    for name in workloads:
        ratio = spent[f"slap int8, {name}"] / spent[f"slap, {name}"]
        rows.append(row(f"int8 / float32, {name}", ratio, "about 0.5 where the CPU has VNNI"))
    length = 8 * 10.0
    for kind in ("numpy", "torch"):
        rows.append(row(f"features in {kind}: times real time", length / spent[f"features, {kind}"], "at least 1000"))
    ratio = spent["features, transformers"] / spent["features, numpy"]
    rows.append(row("features: transformers' spectrogram / ours in numpy", ratio, "at least 3.5"))

    rows += unhurried

    curve = {"seconds": list(CURVE), "slap": [spent[f"slap, one of {s} s"] for s in CURVE]}
    if "naflex, one of 1 s" in spent:
        curve["open_clip NaFlex CLAP"] = [spent[f"naflex, one of {s} s"] for s in CURVE]
    for rival, name in (("clap", "ClapModel"), ("clap large", "ClapModel, large")):
        if f"{rival}, one" in spent:
            curve[f"{name} (hears 10 s at most)"] = [spent[f"{rival}, one"]] * len(CURVE)
    return {
        "rows": rows,
        "curve": curve,
        "matmul_gflops": rate / 1e9,
        "mixed_seconds": workloads["mixed"],
        "cpu_seconds": times,
        "audio_seconds_per_cpu_second": seconds_heard["mixed"] / spent["slap, mixed"],
    }


def memory_rows() -> list[dict]:
    """Peak memory of one long clip without windows, above that of the loaded model; each in a process of its own."""

    def peak(seconds: int) -> float | None:
        code = f"""
import torch
from hf_slap import SlapAudioConfig, SlapAudioModel
torch.set_num_threads(1)
model = SlapAudioModel(SlapAudioConfig(long_audio="whole")).eval()
def high(): return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
with torch.inference_mode():
    model(torch.randn(1, 160, 64))
    open("/proc/self/clear_refs", "w").write("5")  # the highest use so far is forgotten
    before = high()
    model(torch.randn(1, {seconds} * 100, 64))
print((high() - before) / 1024)
"""
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        return float(child.stdout.split()[-1]) if child.returncode == 0 else None  # not Linux

    five, ten = peak(300), peak(600)
    growth = ten / five if five and ten else None
    return [
        row("memory: MB above the weights, one clip of 10 minutes in one piece", ten, ""),
        row("memory: 10 minutes / 5 minutes", growth, "at most 2.1"),
    ]


def training_rows(ranks: int = 8) -> list[dict]:
    """What training spends besides the sound itself: patches that are no sound, idle ranks, activations kept."""
    durations = mixed_durations(clips=20_000)
    plan = list(plan_epoch(durations, batch_seconds=ranks * 240.0, seed=0, epoch=0))
    waiting = []
    for batch in plan:
        loads = [sum(durations[i] for i in share(batch, durations, rank, ranks)) for rank in range(ranks)]
        waiting.append(1 - sum(loads) / (ranks * max(loads)))
    packed = [[(1 + int(durations[i] * 100)) // 16 * 16 for i in batch] for batch in plan]
    padding = 1 - sum(map(sum, packed)) / sum(len(frames) * max(frames) for frames in packed)
    waste = statistics.mean(waiting)
    rows = [
        row(f"training: share of patches and idle time wasted, 1-30 s, packed, {ranks} ranks", waste, "at most 0.02"),
        row("training: share of patches that padding would waste", padding, ""),
    ]
    x, frames = packed_features(EQUAL[:1])
    for checkpointing in (False, True):
        model = SlapAudioModel(SlapAudioConfig()).train()
        if checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        kept: dict[int, int] = {}  # bytes of every storage that the backward pass waits for, weights aside
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def keep(tensor: Tensor, kept: dict = kept, weights: set = weights) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = model(x, clip_frames=frames).pooler_output
        megabytes = sum(kept.values()) / 1e6 / EQUAL[0]
        kind = "with checkpointing" if checkpointing else "kept"
        rows.append(row(f"training: MB of activations per second of audio, float32, {kind}", megabytes, ""))
        del output, model
    return rows


def check_equality(model: SlapAudioModel, seconds: list[float]) -> None:
    """Packed equals padded equals alone, on the workload that is timed."""
    x, frames = packed_features(seconds)
    batch = nn.utils.rnn.pad_sequence(x.split(frames), batch_first=True)
    mask = torch.arange(batch.shape[1])[None] < torch.tensor(frames)[:, None]
    with torch.inference_mode():
        together = model(x, clip_frames=frames).pooler_output
        torch.testing.assert_close(model(batch, mask).pooler_output, together, atol=1e-4, rtol=1e-4)
        alone = model(x[: frames[0]][None]).pooler_output
        torch.testing.assert_close(alone, together[:1], atol=1e-4, rtol=1e-4)


def feature_variants() -> dict[str, Callable]:
    """8 clips of 10 s through our front ends and through transformers' function at the same settings."""
    extractor = SlapFeatureExtractor()
    waveforms = [np.random.default_rng(i).normal(0, 0.1, 160_000).astype(np.float32) for i in range(8)]
    tensors = [torch.from_numpy(w) for w in waveforms]
    filters = mel_filter_bank(257, 64, 50.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    window = np.hanning(401)[:-1]

    def theirs(waveform: np.ndarray) -> np.ndarray:
        return spectrogram(
            waveform,
            window,
            400,
            160,
            512,
            power=2.0,
            mel_filters=filters,
            mel_floor=extractor.log_floor,
            log_mel="log",
        )

    ours = extractor.log_mel(waveforms[0]) * extractor.std + extractor.mean
    np.testing.assert_allclose(theirs(waveforms[0]).T, ours, atol=1e-4)
    return {
        "features, numpy": lambda: [extractor.log_mel(w) for w in waveforms],
        "features, torch": lambda: [extractor.log_mel(w) for w in tensors],
        "features, transformers": lambda: [theirs(w) for w in waveforms],
    }


def measure(variants: dict[str, Callable], rounds: int, clock: Callable) -> dict[str, list[float]]:
    """Time of every variant in every round, after a warm-up, in an order drawn anew each round."""
    from rich.progress import track

    times: dict[str, list[float]] = {name: [] for name in variants}
    order, rng = list(variants), random.Random(SEED)
    for number in track(range(rounds + 1), description="measuring"):
        rng.shuffle(order)
        for name in order:
            start = clock()
            variants[name]()
            if number:
                times[name].append(clock() - start)
    return times


# ----------------------------------------------------------------------------------------------------------- CUDA
def on_cuda(rounds: int) -> dict:
    """SLAP-base in bf16 from preloaded waveforms: mel, forward and training step, as shares of the matmul rate."""
    config, extractor = SlapAudioConfig(), SlapFeatureExtractor()
    model = SlapAudioModel(config).cuda()
    seconds = mixed_durations(clips=128)
    waveforms = [torch.randn(int(s * 16_000), device="cuda") * 0.1 for s in seconds]
    frames = [extractor.num_frames(len(w)) // 16 * 16 for w in waveforms]
    tokens = sum(frames) // 4

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    def mel() -> Tensor:
        return torch.cat([extractor.log_mel(w)[:n] for w, n in zip(waveforms, frames, strict=True)])

    def embed(features: Tensor) -> Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return model(features, clip_frames=frames).pooler_output

    def forward() -> Tensor:
        with torch.inference_mode():
            return embed(mel())

    def training() -> None:
        embed(mel()).float().square().mean().backward()
        model.zero_grad(set_to_none=True)

    multiply, multiplied = matmul_probe("cuda", torch.bfloat16, repeats=10)
    variants = {"matmul": multiply, "mel": mel, "forward": forward, "training": training}
    times = measure(variants, rounds, clock)
    spent = {name: statistics.median(values) for name, values in times.items()}
    rate = multiplied / spent["matmul"]
    count = audio_operations(config, frames)
    torch.cuda.reset_peak_memory_stats()
    training()
    memory = torch.cuda.max_memory_allocated() / 2**30
    with torch.inference_mode():
        outputs = {}
        for backend in ("varlen", "flex", "padded"):
            config.attention_backend = backend
            outputs[backend] = embed(mel()).float()
        config.attention_backend = "auto"
    rows = [
        row("forward: share of the card's bf16 matmul rate", count / spent["forward"] / rate, "at least 0.30"),
        row("forward and backward: share of it", 3 * count / spent["training"] / rate, "at least 0.30, goal 0.50"),
        row("forward: thousand patches per second", tokens / spent["forward"] / 1e3, ""),
        row("forward: seconds of audio per second", sum(seconds) / spent["forward"], ""),
        row("training: seconds of audio per second", sum(seconds) / spent["training"], ""),
        row("mel on the card: share of the forward", spent["mel"] / spent["forward"], "at most 0.04"),
        row(f"training: GiB for {sum(seconds):.0f} s of audio", memory, ""),
    ]
    for backend in ("flex", "padded"):
        cosine = nn.functional.cosine_similarity(outputs["varlen"], outputs[backend]).min().item()
        rows.append(row(f"smallest cosine of varlen and {backend} embeddings", cosine, "at least 0.999"))
    return {"rows": rows, "matmul_tflops": rate / 1e12, "seconds": times}


# --------------------------------------------------------------------------------------------------------- report
def row(what: str, value: float | None, target: str, note: str = "") -> dict:
    return {"what": what, "value": value, "target": target, "note": note}


def environment(parsed: argparse.Namespace) -> dict:
    if parsed.device == "cuda":
        machine = torch.cuda.get_device_name()
    else:
        models = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
        machine = (
            f"{models[0] if models else platform.processor()}, 1 thread, {torch.backends.cpu.get_cpu_capability()}"
        )
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, numpy {np.__version__}"
    return {"date": date.today().isoformat(), "machine": machine, "versions": versions, "rounds": parsed.rounds}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def print_table(result: dict) -> None:
    about = result["environment"]
    table = Table(
        title=f"SLAP-base, {about['date']}, {about['machine']}", title_justify="left", box=None, pad_edge=False
    )
    for heading, side in (("measured", "left"), ("median", "right"), ("wanted", "left")):
        table.add_column(heading, justify=side)
    for line in result["rows"]:
        value = "not measured" if line["value"] is None else f"{line['value']:,.{0 if line['value'] > 99 else 2}f}"
        table.add_row(line["what"], value, line["target"] if not line["note"] else f"{line['target']} ({line['note']})")
    console = Console(width=140)
    console.print(table)
    console.print(f"{about['versions']}; median of {about['rounds']}", highlight=False)


def draw(result: dict, path: Path) -> None:
    """CPU time of one clip against its duration, this package and its rivals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    seconds = result["curve"]["seconds"]
    for name, values in result["curve"].items():
        if name != "seconds":
            flat = name.startswith("ClapModel")
            axis.plot(seconds, values, label=name, linestyle="--" if flat else "-", marker=None if flat else "o", ms=4)
    axis.set(xscale="log", yscale="log", xlabel="duration of one clip, s", ylabel="CPU time of its embedding, s")
    axis.set_title(f"One clip, one thread ({result['environment']['machine']})", loc="left", fontsize=10)
    axis.grid(alpha=0.25, which="both", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=140)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
