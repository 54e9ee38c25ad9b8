"""Functions that run in several processes at once, from a notebook, a script or ``torchrun``."""

from bigmodel_helpers.distributed._worker_error import WorkerError
from bigmodel_helpers.distributed.launcher import device, launch, process_group

__all__ = ["WorkerError", "device", "launch", "process_group"]
