"""One pretraining run on one device, inside a budget of wall-clock time."""

from __future__ import annotations

import json
import math
import platform
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from gpu_data import DeviceCorpus, Draw, load_tokenizer
from gpu_network import BatchedMuon, Network, make_adamw
from gpu_probe import Pending, Probe, collect, finished
from gpu_store import STATE, load_state, load_weights, save_run, save_state
from packed import Pack
from torch import Tensor, nn

from moltune.models.molformer import MolformerConfig

PLATEAU = "plateau.safetensors"
PROGRESS = ("step", "seen", "epochs", "seconds", "next_point")


@dataclass
class Settings:
    """Everything that a run or a variant of a sweep can choose; see ``gpu.py --help``."""

    name: str = "run"
    tokenizer: str = ""
    alternative_tokenizers: list[str] = field(default_factory=list)
    alternative_share: float = 0.5
    minutes: float = 9.0
    molecules: int = 0
    reserve: float = 20.0
    layers: int = 4
    hidden: int = 256
    intermediate: int = 768
    heads: int = 8
    dropout: float = 0.05
    batch: int = 2048
    buckets: int = 5
    max_length: int = 0
    learning_rate: float = 1.5e-3
    warmup: int = 500
    decay_share: float = 0.25
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    weights: dict[str, float] = field(
        default_factory=lambda: {"mlm": 0.2, "mtr": 1.0, "teacher": 1.0, "ionisation": 2.0}
    )
    deep: list[str] = field(default_factory=list)
    masked: float = 0.25
    mask_share: float = 0.15
    rest_share: float = -1.0
    device: str = "cuda"
    bf16: bool = True
    compile: bool = True
    compile_limit: float = 100.0
    graphs: bool = False
    first_point: int = 500_000
    save_every: float = 0.0
    retries: int = 2
    seed: int = 0
    start_from: str = ""
    save: bool = True


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def _too_late(*_: Any) -> None:
    raise TimeoutError("the compiler took too long")


class Steps:
    """Optimiser steps, eager or compiled, each launched anew or replayed from a CUDA graph.

    Nothing here waits for the device.
    """

    def __init__(self, network: Network, corpus: DeviceCorpus, settings: Settings) -> None:
        self.network, self.corpus, self.settings = network, corpus, settings
        device = corpus.device
        self.rate = torch.zeros((), device=device)
        half = torch.bfloat16 if network.bf16 else torch.float32
        self.muon = BatchedMuon(network.matrices(), self.rate, settings.weight_decay, half)
        self.adamw = make_adamw(network, self.rate, settings.weight_decay)
        self.parameters = list(network.parameters())
        self.sums = torch.zeros(len(network.weights), device=device)
        self.runners: dict[int, Any] = {}
        self.graphs: dict[int, tuple[Any, Draw]] = {}

    def compile(self, limit: float) -> float:
        """Compile the network for each bucket, the fullest first, until ``limit`` seconds are spent."""
        started = time.monotonic()
        # A compiler that hangs is interrupted a minute later.
        signal.signal(signal.SIGALRM, _too_late)
        signal.setitimer(signal.ITIMER_REAL, limit + 60)
        try:
            import torch._dynamo

            for option in ("recompile_limit", "cache_size_limit", "accumulated_recompile_limit"):
                if hasattr(torch._dynamo.config, option):
                    setattr(torch._dynamo.config, option, 256)
            compiled = torch.compile(self.network, dynamic=False)
            for bucket in sorted(range(len(self.corpus.buckets)), key=lambda b: -self.corpus.counts[b]):
                if time.monotonic() - started > limit:
                    say(f"compilation took {limit:.0f} s; bucket {bucket} stays uncompiled")
                    continue
                begun = time.monotonic()
                total, _ = compiled(*self.corpus.batch(self.corpus.example(bucket)))
                total.backward()
                self.synchronise()
                self.runners[bucket] = compiled
                say(f"compiled {self.corpus.buckets[bucket]} in {time.monotonic() - begun:.1f} s")
        except Exception as error:  # Whatever goes wrong in a compiler, the run goes on without it.
            say(f"compilation failed, the rest runs without it: {type(error).__name__}: {str(error)[:1500]}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.network.zero_grad(set_to_none=True)
        return time.monotonic() - started

    def capture(self) -> None:
        """Record a whole step of each bucket as a CUDA graph; the weights stay as they are."""
        started = time.monotonic()
        self.rate.zero_()
        try:
            pool = torch.cuda.graph_pool_handle()
            for bucket in range(len(self.corpus.buckets)):
                example = self.corpus.example(bucket)
                draw = Draw(bucket, example.molecules.clone(), example.variants.clone())
                side = torch.cuda.Stream()
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    for _ in range(3):
                        self._step(draw)
                torch.cuda.current_stream().wait_stream(side)
                torch.cuda.synchronize()
                self.network.zero_grad(set_to_none=True)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool):
                    self._step(draw)
                self.graphs[bucket] = graph, draw
            say(f"captured {len(self.graphs)} CUDA graphs in {time.monotonic() - started:.1f} s")
        except Exception as error:  # As above: slower, but running.
            say(f"CUDA graphs failed, the run goes on without them: {type(error).__name__}: {str(error)[:1500]}")
            self.graphs = {}
        self.network.zero_grad(set_to_none=True)
        self.reset()

    def save(self, progress: dict[str, Any], path: Path) -> None:
        """Write everything that is needed to go on."""
        save_state(self.network, self.muon, self.adamw, progress, path)

    def load(self, path: Path) -> dict[str, Any]:
        """Go on from a saved state; returns its progress."""
        self.rate.zero_()
        self._step(self.corpus.example(0))
        progress = load_state(self.network, self.muon, self.adamw, path)
        self.sums.zero_()
        return progress

    def reset(self) -> None:
        """Forget momenta and loss sums, in place."""
        self.muon.reset()
        for state in self.adamw.state.values():
            for value in state.values():
                value.zero_()
        self.sums.zero_()

    def take(self, draw: Draw) -> None:
        """One step at the present rate."""
        if draw.bucket in self.graphs:
            graph, static = self.graphs[draw.bucket]
            static.molecules.copy_(draw.molecules)
            static.variants.copy_(draw.variants)
            graph.replay()
        else:
            self._step(draw)

    def _step(self, draw: Draw) -> None:
        for parameter in self.parameters:
            parameter.grad = None
        ids, targets = self.corpus.batch(draw)
        total, values = self.runners.get(draw.bucket, self.network)(ids, targets)
        total.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        self.muon.step()
        self.adamw.step()
        self.sums += values

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.corpus.device.type == "cuda":
            torch.cuda.synchronize()


class Snapshots:
    """Two copies of the weights: the older one is known to have given finite losses afterwards."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters: list[Tensor] = [p.detach() for p in parameters]
        self.good = [p.clone() for p in self.parameters]
        self.latest = [p.clone() for p in self.parameters]

    def advance(self) -> None:
        """Losses since the latest copy were finite: it is good, and the present weights are the latest."""
        torch._foreach_copy_(self.good, self.latest)
        torch._foreach_copy_(self.latest, self.parameters)

    def restore(self) -> None:
        """Go back to the good copy."""
        torch._foreach_copy_(self.parameters, self.good)
        torch._foreach_copy_(self.latest, self.good)


class Run:
    """Prepare, train, evaluate and save one variant."""

    def __init__(self, settings: Settings, pack: Pack, probe: Probe, folder: Path, spent: float = 0.0) -> None:
        self.settings, self.probe, self.folder = settings, probe, folder
        self.device = torch.device(settings.device)
        # A processor is shared with other programs: there the budget is of CPU time.
        self.clock = time.process_time if self.device.type == "cpu" else time.monotonic
        self.began = self.clock()
        self.deadline = self.began + 60 * settings.minutes - spent
        torch.manual_seed(settings.seed)
        torch.set_float32_matmul_precision("high")
        tokenizers = [load_tokenizer(settings.tokenizer)]
        tokenizers += [load_tokenizer(folder, settings.tokenizer) for folder in settings.alternative_tokenizers]
        self.corpus = DeviceCorpus(
            pack,
            tokenizers,
            self.device,
            molecules=settings.batch,
            buckets=settings.buckets,
            longest=settings.max_length,
            alternative_share=settings.alternative_share,
            rest_share=settings.rest_share,
            seed=settings.seed,
        )
        vocabulary = self.corpus.vocabulary
        self.config = MolformerConfig(
            vocab_size=len(vocabulary.tokens),
            hidden_size=settings.hidden,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            intermediate_size=settings.intermediate,
            max_position_embeddings=512,
            embedding_dropout_prob=0.0,
            hidden_dropout_prob=settings.dropout,
            redraw_features=False,
            bos_token_id=vocabulary.bos,
            eos_token_id=vocabulary.eos,
            pad_token_id=vocabulary.pad,
        )
        self.network = Network(
            self.config,
            {name: block.values.shape[1] for name, block in pack.blocks.items()},
            settings.weights,
            self.corpus.steps,
            vocabulary.ordinary,
            (vocabulary.bos, vocabulary.eos, vocabulary.pad, vocabulary.mask),
            deep=settings.deep,
            masked=settings.masked,
            mask_share=settings.mask_share,
            # Without the instructions, a processor computes in bf16 far more slowly than in fp32.
            bf16=settings.bf16 and (self.device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()),
        ).to(self.device)
        if settings.start_from:
            say(load_weights(self.network, vocabulary.tokens, Path(settings.start_from)))
        probe.read(tokenizers[0], vocabulary.pad, self.config.max_position_embeddings)
        self.steps = Steps(self.network, self.corpus, settings)
        self.curve: list[dict[str, Any]] = []
        self.pending: list[tuple[dict[str, Any], Pending]] = []
        self.names = {name: block.names for name, block in pack.blocks.items()}
        molecules, left_out = len(self.corpus.core) + self.corpus.rest_wanted, len(pack.smiles) - len(self.corpus.fits)
        say(
            f"{molecules} molecules an epoch ({left_out} too long), {self.corpus.mean_length:.2f} tokens each, "
            f"{self.corpus.padded_length:.2f} with padding; {[(b.length, b.rows) for b in self.corpus.buckets]}"
        )
        self.parameters = sum(p.numel() for p in self.network.model.parameters())
        say(
            f"vocabulary {len(vocabulary.tokens)}, {self.parameters / 1e6:.2f} M parameters, "
            f"{self.flops() / 1e9:.3f} GFLOP a molecule; ready after {self.clock() - self.began:.1f} s"
        )

    def flops(self) -> float:
        """Floating-point operations of training on one molecule: three times those of a forward pass."""
        settings, length = self.settings, self.corpus.padded_length
        token = 2.0 * sum(p.numel() for p in self.network.matrices())
        token += settings.layers * settings.hidden * (4 * 32 + 4 * length)
        decoder = 2.0 * settings.hidden * (settings.hidden + self.config.vocab_size)
        return 3.0 * length * (token + self.network.masked * decoder)

    def rate(self, step: int, fraction: float, factor: float) -> float:
        """Warm-up by steps, plateau, linear cool-down over the last share of the budget."""
        warm = min(1.0, (step + 1) / max(1, self.settings.warmup))
        cool = min(1.0, max(0.0, 1.0 - fraction) / self.settings.decay_share)
        return self.settings.learning_rate * factor * min(warm, cool)

    def point(self, **about: Any) -> None:
        """Save, and take held-out losses now; the frozen check is fitted elsewhere in the meantime."""
        if self.settings.save and about["step"]:
            save_run(self.network, self.config, self.settings.tokenizer, self.names, self.folder)
        entry = {**about, "held_out": self.network.held_out(self.corpus.held_out_batches())}
        self.pending.append((entry, self.probe.submit(self.network)))
        self.curve.append(entry)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in entry["held_out"].items())
        say(f"  held out at {entry['molecules']:,} molecules: {shown}")

    def gather(self, wait: bool = False) -> None:
        """Take the frozen results that have come in."""
        for entry, pending in list(self.pending):
            if wait or finished(pending):
                entry["frozen"] = collect(pending)
                self.pending.remove((entry, pending))
                shown = "  ".join(f"{name} {found.get('rmse')}" for name, found in entry["frozen"].items())
                say(f"  frozen validation RMSE at {entry['molecules']:,} molecules: {shown}")

    def train(self) -> dict[str, Any]:
        """All of the training; returns what the summary says of it."""
        settings, steps, corpus = self.settings, self.steps, self.corpus
        step = seen = epochs = failures = 0
        before, next_point = 0.0, settings.first_point
        if settings.save_every and (self.folder / STATE).is_file():
            found = steps.load(self.folder / STATE)
            step, seen, epochs, before, next_point = (found[name] for name in PROGRESS)
            self.curve = found["curve"]
            corpus.reseed(settings.seed, step)
            say(f"going on at step {step}, {seen:,} molecules, {before:.0f} s")
        else:
            self.point(step=0, molecules=0, seconds=0.0)
        if settings.compile:
            spent = steps.compile(settings.compile_limit)
            say(f"{len(steps.runners)} of {len(corpus.buckets)} shapes compiled in {spent:.1f} s")
        if settings.graphs and self.device.type == "cuda":
            steps.capture()
        snapshots = Snapshots(steps.parameters)
        begin = last_log = last_save = self.clock()
        budget = max(1.0, self.deadline - settings.reserve - begin)
        logged, seen_logged = step, seen
        factor, state, train = 1.0, "finished", {}
        fraction, marks = 0.0, []
        plateau = 1 - settings.decay_share
        cooling = seen > plateau * settings.molecules > 0
        say(f"training for {budget:.1f} s" + (f" or {settings.molecules:,} molecules" if settings.molecules else ""))
        while fraction < 1 and state == "finished":
            epochs += 1
            for draw in corpus.epoch():
                now = self.clock()
                fraction = (now - begin) / budget
                if settings.molecules:
                    fraction = max(fraction, seen / settings.molecules)
                if fraction >= 1:
                    break
                steps.rate.fill_(self.rate(step, fraction, factor))
                steps.take(draw)
                step, seen = step + 1, seen + len(draw.molecules)
                if self.device.type == "cuda" and step % 20 == 0:
                    # The host stays at most forty steps ahead, so that its clock is the device's.
                    marks.append(torch.cuda.Event())
                    marks[-1].record()
                    if len(marks) > 2:
                        marks.pop(0).synchronize()
                if now - last_log > 5 or step == 50:
                    train = dict(zip(self.network.weights, (steps.sums / (step - logged)).tolist(), strict=True))
                    pace = (seen - seen_logged) / (self.clock() - last_log)
                    shown = "  ".join(f"{name} {value:.4f}" for name, value in train.items())
                    say(
                        f"{now - begin:6.1f} s  step {step}  {seen:,} molecules  {pace:,.0f}/s  "
                        f"{pace * self.flops() / 1e12:.1f} TFLOP/s  rate {float(steps.rate):.2e}  {shown}"
                    )
                    steps.sums.zero_()
                    last_log, logged, seen_logged = self.clock(), step, seen
                    if all(math.isfinite(value) for value in train.values()):
                        snapshots.advance()
                    else:
                        failures += 1
                        snapshots.restore()
                        steps.reset()
                        factor /= 2
                        say(f"the loss is not finite: back to the last good weights, at {factor:g} of the rate")
                        if failures > settings.retries:
                            state = "the loss was not finite"
                            break
                    self.gather()
                seconds = round(before + self.clock() - begin, 1)
                if seen >= next_point:
                    next_point *= 2
                    self.point(step=step, molecules=seen, seconds=seconds, train=train)
                if settings.save_every and (now - last_save > settings.save_every or cooling != (fraction > plateau)):
                    progress = dict(zip(PROGRESS, (step, seen, epochs, seconds, next_point), strict=True))
                    # From the state before the cool-down a longer run can go on.
                    name = STATE if cooling == (fraction > plateau) else PLATEAU
                    steps.save({**progress, "curve": self.curve}, self.folder / name)
                    last_save, cooling = now, fraction > plateau
        steps.synchronise()
        seconds = before + self.clock() - begin
        tail = (steps.sums / max(1, step - logged)).tolist()
        if not all(math.isfinite(value) for value in tail):
            snapshots.restore()
            state = "the loss was not finite at the end; these are weights of a few seconds before"
        return {
            "state": state,
            "steps": step,
            "molecules": seen,
            "epochs": epochs,
            "train_seconds": round(seconds, 1),
            "molecules_per_second": round(seen / max(seconds, 1e-9)),
            "tflops": round(seen / max(seconds, 1e-9) * self.flops() / 1e12, 2),
            "retries": failures,
            "compiled": len(steps.runners),
            "graphs": len(steps.graphs),
            "train": dict(zip(self.network.weights, tail, strict=True)) if step > logged else train,
        }

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Round the weights to half precision, save and evaluate them so, and write curve and summary."""
        with torch.no_grad():
            for tensor in self.network.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(tensor.half())
        self.point(step=result["steps"], molecules=result["molecules"], seconds=result["train_seconds"], final=True)
        self.gather(wait=True)
        last = self.curve[-1]
        device = torch.cuda.get_device_name() if self.device.type == "cuda" else platform.processor() or "cpu"
        summary = {
            "name": self.settings.name,
            **result,
            "held_out": last["held_out"],
            "frozen": last.get("frozen", {}),
            "parameters": self.parameters,
            "tokens_per_molecule": round(self.corpus.mean_length, 3),
            "padded_tokens_per_molecule": round(self.corpus.padded_length, 3),
            "buckets": [(bucket.length, bucket.rows) for bucket in self.corpus.buckets],
            "seconds": round(self.clock() - self.began, 1),
            "settings": asdict(self.settings),
            "device": device,
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
        }
        if self.device.type == "cuda":
            summary["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        if self.settings.save:
            lines = "".join(json.dumps(entry) + "\n" for entry in self.curve)
            (self.folder / "curve.jsonl").write_text(lines, encoding="utf-8")
            (self.folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        return summary
