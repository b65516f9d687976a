from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltune.config import SplitSettings
from moltune.data.load import load_molecules
from moltune.data.splitting.split import make_split
from moltune.errors import RunFolderError
from moltune.files import write_json
from moltune.study.engine.store import Store, Task, canonical, digest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


def task(name: str = "a") -> Task:
    return Task(digest({"name": name}), "run", f"arm {name}", "arm", {"name": name})


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=5))
def test_a_hash_knows_no_order_and_survives_json(values: dict[str, Any]) -> None:
    backwards = dict(reversed(list(values.items())))
    assert digest(values) == digest(backwards) == digest(json.loads(json.dumps(values)))


@given(JSON, JSON)
def test_different_values_have_different_texts(one: Any, other: Any) -> None:
    plain = "_" not in json.dumps([one, other])
    if plain:
        assert (canonical({"v": one}) == canonical({"v": other})) == (
            json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
        )


def test_carried_keys_do_not_count() -> None:
    assert digest({"a": 1, "_path": "x"}) == digest({"a": 1, "_path": "y"}) != digest({"a": 2})
    assert digest({"a": {"_path": "x"}}) == digest({"a": {}})


def test_molecules_and_splits_come_back_as_they_were(table: pd.DataFrame, tmp_path: Path) -> None:
    doubled = pd.concat([table, table.head(2)], ignore_index=True)
    molecules = load_molecules(doubled)
    store = Store(tmp_path)
    store.save_molecules(molecules, "k")
    again = store.molecules("k")
    assert again is not None
    pd.testing.assert_frame_equal(again.table, molecules.table, check_dtype=False)
    assert again.provenance["merged_rows"] == molecules.provenance["merged_rows"] != {}
    assert again.rows_in == 62
    split = make_split(molecules, SplitSettings(bins=3), 1)
    store.save_split("split1", split, molecules)
    for name, positions in store.split("split1", molecules).parts().items():
        assert positions.tolist() == split.parts()[name].tolist()
    with pytest.raises(RunFolderError, match="does not fit"):
        store.split("split1", molecules.reject({0: "gone"}))


def test_a_result_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def breaks(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError):
        store.commit(task(), breaks)
    assert not store.finished(task())
    assert list((tmp_path / "runs").iterdir()) == []
    store.commit(task(), lambda folder: (folder / "whole").write_text("whole") and None)
    store.commit(task(), lambda folder: (folder / "whole").write_text("later") and None)
    assert (store.place(task()) / "whole").read_text() == "whole"


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("chapter one")
    with pytest.raises(RunFolderError, match="holds no study"):
        Store(tmp_path).occupy("a")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    study = Store(tmp_path / "study")
    study.occupy("a")
    write_json(tmp_path / "study" / "study.json", {"recipe": {"name": "a"}})
    study.occupy("a")
    with pytest.raises(RunFolderError, match="holds the study 'a'"):
        study.occupy("b")


def test_a_claim_excludes_others_until_its_owner_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "sys.argv[0] = 'moltune'\n"  # the command line imports no torch
        "from moltune.study.engine.store import Store, Task\n"
        "with Store(sys.argv[1]).claim(Task(sys.argv[2], 'run', 't', 'a', {})) as mine:\n"
        "    print(mine, flush=True)\n"
        "    time.sleep(600)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), task().hash], stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline().strip() == "True"
        with Store(tmp_path).claim(task()) as mine:
            assert not mine
        assert json.loads((tmp_path / "claims" / f"{task().hash}.json").read_text())["pid"] == owner.pid
        with Store(tmp_path).claim(task("b")) as mine:
            assert mine
    finally:
        owner.kill()
        owner.wait()
    with Store(tmp_path).claim(task()) as mine:
        assert mine


def test_sweeping_spares_the_living(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    here = socket.gethostname().replace(".", "-")
    kept = {f".abc.{here}.{os.getpid()}.tmp", f".abc.elsewhere.{dead.pid}.tmp"}
    for name in [*kept, f".abc.{here}.{dead.pid}.tmp"]:
        (runs / name).mkdir(parents=True)
    Store(tmp_path).sweep()
    assert {path.name for path in runs.iterdir()} == kept


def test_the_journal_has_one_line_per_event(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_journal("begin", task())
    store.write_journal("failed", task(), error="no\nwater")
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["begin", "failed"]
    assert lines[1]["error"] == "no\nwater"
    assert lines[0]["time"] <= time.time()
