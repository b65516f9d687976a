"""What can be compared: the contract of an arm and its kinds."""

from moltune.study.arms import baseline, blend, external, finetune, probe, selection, svr

__all__ = ["baseline", "blend", "external", "finetune", "probe", "selection", "svr"]
