"""The kinds of arms, one file each; importing this package registers them."""

from moltune.study.kinds import baseline, blend, external, finetune, probe, selection, svr

__all__ = ["baseline", "blend", "external", "finetune", "probe", "selection", "svr"]
