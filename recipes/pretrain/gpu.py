"""Pretrain an encoder on one GPU, without a network, inside a fixed time, from the file that ``pack.py`` writes.

    PYTHONPATH=src python recipes/pretrain/gpu.py corpus.pack OUT --tokenizer FOLDER --minutes 9

Everything (reading, compiling, training, evaluating, saving) fits into ``--minutes`` from the start of the process
(CPU minutes on a CPU).
OUT receives ``model/`` (published masked-LM layout, half precision), ``heads.safetensors``, ``curve.jsonl`` and
``summary.json``. With ``--sweep FILE``, a JSON list of settings (names as in ``Settings``, each with a ``name``), the
variants run one after another, each with its own minutes; OUT receives ``sweep.jsonl``, and a folder for each variant
that says ``"save": true``.

The masked share of each batch serves the masked-LM objective, and the rest the regressions, as in
``moltune``'s own loop. The learning rate is a function of the share of the budget that is spent (time, or
``--molecules``, whichever is further), so that the cool-down always ends in time.

On a CPU, ``--device cpu --no-compile --batch 384 --save-every 120`` runs for hours and goes on after a kill; it
computes in bf16 where the processor has the instructions.
"""

from __future__ import annotations

import argparse
import importlib
import os
import threading
import time

STARTED = time.monotonic()
for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# Worker processes import this file again: everything heavy is imported in main().


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="the packed corpus")
    parser.add_argument("output", help="folder for results")
    parser.add_argument("--sweep", default="", help="JSON list of variants")
    parser.add_argument("--miniature", action="store_true", help="a tiny network and batch, for a test on a CPU")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads on the CPU; 0: as it likes")
    parser.add_argument("--processes", type=int, default=0, help="that fit support vectors; 0: all cores but two")
    add = parser.add_argument_group("settings").add_argument
    add("--tokenizer", help="folder with tokenizer.json")
    add("--alternative-tokenizers", help="folders, or dropout:0.1 for BPE dropout; separated by commas")
    add("--alternative-share", type=float, help="share of molecules read in one of them")
    add("--minutes", type=float, help="wall-clock time for everything")
    add("--molecules", type=int, help="stop after so many molecules, if that comes first")
    add("--reserve", type=float, help="seconds kept for saving and the last evaluation")
    for name in ("layers", "hidden", "intermediate", "heads"):
        add(f"--{name}", type=int)
    add("--dropout", type=float)
    add("--batch", type=int, help="molecules of an average step")
    add("--buckets", type=int, help="number of padded lengths")
    add("--max-length", type=int, help="tokens; longer molecules are left out")
    add("--learning-rate", type=float)
    add("--warmup", type=int, help="steps")
    add("--decay-share", type=float, help="share of the budget that cools down")
    add("--weight-decay", type=float)
    add("--weights", help="of the objectives: mlm=0.2,mtr=1,teacher=1,ionisation=2")
    add("--masked", type=float, help="share of the molecules that are masked")
    add("--mask-share", type=float, help="share of the tokens of a masked molecule")
    add("--rest-share", type=float, help="share of molecules without teacher in an epoch; negative: all of them")
    add("--device")
    add("--no-compile", dest="compile", action="store_false", default=None)
    add("--compile-limit", type=float, help="seconds; shapes that are left then stay uncompiled")
    add("--graphs", action="store_true", default=None, help="replay whole steps as CUDA graphs")
    add("--first-point", type=int, help="molecules at the first evaluation; then at every doubling")
    add("--save-every", type=float, help="seconds between states in OUT, from which the same command goes on; 0: none")
    add("--no-bf16", dest="bf16", action="store_false", default=None, help="fp32 throughout")
    add("--retries", type=int, help="times that a non-finite loss is answered by half the rate and older weights")
    add("--seed", type=int)
    add("--start-from", help="folder of a run or checkpoint whose weights to begin with")
    return parser.parse_args(argv)


MINIATURE = {
    "layers": 2,
    "hidden": 32,
    "intermediate": 48,
    "heads": 4,
    "batch": 32,
    "buckets": 3,
    "minutes": 10.0,
    "molecules": 6000,
    "reserve": 5.0,
    "warmup": 20,
    "learning_rate": 3e-3,
    "first_point": 1000,
    "compile": False,
}
_NOT_SETTINGS = ("corpus", "output", "sweep", "miniature", "threads", "processes")


def chosen(arguments: argparse.Namespace) -> dict[str, object]:
    """Settings that the command line names, on top of the miniature's when that is asked for."""
    values: dict[str, object] = dict(MINIATURE) if arguments.miniature else {}
    for name, value in vars(arguments).items():
        if name not in _NOT_SETTINGS and value is not None:
            values[name] = value
    if isinstance(values.get("weights"), str):
        pairs = (part.split("=") for part in str(values["weights"]).split(","))
        values["weights"] = {name: float(weight) for name, weight in pairs}
    if isinstance(values.get("alternative_tokenizers"), str):
        values["alternative_tokenizers"] = str(values["alternative_tokenizers"]).split(",")
    return values


def main() -> None:
    """Run one variant, or several."""
    arguments = parse()
    import json
    from pathlib import Path

    from gpu_probe import Probe
    from packed import read_pack

    cores = len(os.sched_getaffinity(0))
    variants = json.loads(Path(arguments.sweep).read_text(encoding="utf-8")) if arguments.sweep else []
    # Torch takes seconds to import from a cold disk; the pack is read meanwhile.
    importing = threading.Thread(target=importlib.import_module, args=("gpu_train",))
    importing.start()
    pack = read_pack(arguments.corpus, threads=cores)
    shares = {name: float(block.known().mean()) for name, block in pack.blocks.items()}
    sizes = ", ".join(f"{name} {pack.blocks[name].values.shape[1]} ({share:.1%})" for name, share in shares.items())
    print(f"{time.monotonic() - STARTED:.1f} s: {cores} cores, {len(pack.smiles)} molecules; {sizes}", flush=True)
    probe = Probe(pack.evaluation, arguments.processes or max(1, min(14, cores - 2)))
    importing.join()
    import torch
    from gpu_train import Run, Settings

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f"{time.monotonic() - STARTED:.1f} s: torch {torch.__version__} imported", flush=True)
    out = Path(arguments.output)
    out.mkdir(parents=True, exist_ok=True)
    try:
        if not variants:
            settings = Settings(**chosen(arguments))  # type: ignore[arg-type]
            run = Run(settings, pack, probe, out, time.monotonic() - STARTED)
            summary = run.finish(run.train())
            print(json.dumps({key: summary[key] for key in SHOWN}, indent=1), flush=True)
            if summary["state"] != "finished":
                raise SystemExit(summary["state"])
            return
        for variant in variants:
            settings = Settings(**{"save": False, **chosen(arguments), **variant})
            print(f"== {settings.name}", flush=True)
            torch._dynamo.reset()
            try:
                run = Run(settings, pack, probe, out / settings.name)
                summary = {**run.finish(run.train()), "curve": run.curve}
            except (Exception, SystemExit) as error:  # One broken variant leaves the others their turn.
                summary = {"name": settings.name, "state": f"{type(error).__name__}: {error}"[:2000]}
            print(json.dumps({key: summary.get(key) for key in SHOWN}), flush=True)
            with open(out / "sweep.jsonl", "a", encoding="utf-8") as handle:
                handle.write(json.dumps(summary) + "\n")
    finally:
        probe.close()
        print(f"{time.monotonic() - STARTED:.1f} s in all", flush=True)


SHOWN = ("name", "state", "steps", "molecules", "molecules_per_second", "tflops", "held_out", "frozen", "seconds")


if __name__ == "__main__":
    main()
