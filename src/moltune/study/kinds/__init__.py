"""The kinds of arms, one file each; importing this package registers them."""

from moltune.study.kinds import baseline, external, finetune, probe, selection, svr

__all__ = ["baseline", "external", "finetune", "probe", "selection", "svr"]
