"""The service under load, on loopback: one molecule a request, from 1, 8 and 64 clients, alone and beside a large file.

    python benchmarks/service_load.py --model runs/ready1/lipophilicity [--seconds 10] [--rows 100000]

Starts ``moltune serve --only`` with the named models and two processes. Each phase is bounded in time; molecules are
those of FreeSolv in turn. ``large_file`` is the phase of one client while a file of ``--rows`` rows is under way,
between two phases without it; the file is removed then, unfinished. A status other than 200, 4xx and 503 is an error.
``page`` is the time from pressing Enter in Chromium to the first number, for molecules new to the server, each
on a fresh page; the first of them is the server's first prediction. Its server has every ready-made model.

Writes ``benchmarks/results/service_load.json``.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from shutil import which
from typing import Any

import httpx
import numpy as np
from machine import describe_machine, write_result

from moltune import datasets

CLIENTS = (1, 8, 64)


def start(models: list[str], folder: Path, workers: int) -> tuple[subprocess.Popen[str], str]:
    named = ["--only", *(part for model in models for part in ("--model", model))] if models else []
    command = [sys.executable, "-m", "moltune", "serve", *named, "--port", "0", "--folder", str(folder)]
    process = subprocess.Popen([*command, "--workers", str(workers)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "ready at" in line:
            return process, line.split()[3].rstrip(",")
    raise SystemExit(f"the server did not start:\n{''.join(said)}")


def load(address: str, clients: int, seconds: float) -> dict[str, Any]:
    """Ask from so many threads for so long."""
    smiles = datasets.load("freesolv")["smiles"].tolist()
    counter, lock = itertools.count(), threading.Lock()
    times: list[float] = []
    statuses: Counter[int] = Counter()
    end = time.monotonic() + seconds

    def ask() -> None:
        with httpx.Client(base_url=address, timeout=120) as client:
            while time.monotonic() < end:
                begun = time.perf_counter()
                answer = client.post("/v1/predict", json={"molecules": smiles[next(counter) % len(smiles)]})
                spent = time.perf_counter() - begun
                with lock:
                    statuses[answer.status_code] += 1
                    if answer.status_code == 200:
                        times.append(spent)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - begun
    bad = [status for status in statuses if status >= 500 and status != 503]
    if bad:
        raise SystemExit(f"{clients} clients: answers with status {bad}")
    return {
        "clients": clients,
        "requests_per_second": len(times) / spent,
        "p50_seconds": float(np.quantile(times, 0.5)),
        "p99_seconds": float(np.quantile(times, 0.99)),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
    }


def beside(address: str, rows: int, seconds: float) -> dict[str, Any]:
    """One client while a large file is under way, between two phases without it."""
    table = datasets.load("lipophilicity")[["smiles"]]
    content = "smiles\n" + "\n".join(itertools.islice(itertools.cycle(table["smiles"]), rows))
    with httpx.Client(base_url=address, timeout=120) as client:
        before = load(address, 1, seconds)
        job = client.post("/v1/jobs", files={"file": ("large.csv", content.encode())}).json()["id"]
        while client.get(f"/v1/jobs/{job}").json()["progress"] == 0:
            time.sleep(0.2)
        during = load(address, 1, seconds)
        state = client.get(f"/v1/jobs/{job}").json()
        client.delete(f"/v1/jobs/{job}")
        time.sleep(3)
        after = load(address, 1, seconds)
    idle = float(np.mean([before["p99_seconds"], after["p99_seconds"]]))
    return {
        "rows": rows,
        "state_at_the_end": state["state"],
        "progress_at_the_end": state["progress"],
        "before": before,
        "during": during,
        "after": after,
        "p99_ratio": during["p99_seconds"] / idle,
    }


def page(address: str, count: int = 10) -> dict[str, Any]:
    """Seconds from Enter to the first number of the page."""
    from playwright.sync_api import sync_playwright

    seconds = []
    with sync_playwright() as driver:
        chromium = which("chromium") or which("chromium-browser")
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for smiles in datasets.load("freesolv")["smiles"].iloc[200 : 200 + count]:
            fresh = browser.new_context().new_page()
            fresh.goto(address, wait_until="networkidle")
            fresh.fill("#smiles", smiles)
            begun = time.perf_counter()
            fresh.press("#smiles", "Enter")
            fresh.wait_for_selector(".card .number strong")
            seconds.append(time.perf_counter() - begun)
            fresh.context.close()
        browser.close()
    return {"first_seconds": seconds[0], "median_seconds": float(np.median(seconds)), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process, address = start(chosen.model, Path(folder), chosen.workers)
        try:
            phases = [load(address, clients, chosen.seconds) for clients in CLIENTS]
            large = beside(address, chosen.rows, chosen.seconds)
        finally:
            process.terminate()
            process.wait(30)
    with tempfile.TemporaryDirectory() as folder:
        process, address = start([], Path(folder), chosen.workers)
        try:
            shown = page(address)
        finally:
            process.terminate()
            process.wait(30)
    result = {"models": [Path(one).name for one in chosen.model], "workers": chosen.workers, "load": phases}
    print(result, large, shown)
    write_result("service_load", {**result, "large_file": large, "page": shown, "machine": describe_machine()})


if __name__ == "__main__":
    main()
