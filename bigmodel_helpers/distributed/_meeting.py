"""Where the launcher and the ranks of one machine meet: without a port, and without asking for a host name."""

import os
from pathlib import Path

import torch.distributed as dist
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)


class OneMachine(RendezvousHandler):
    """The meeting of a launcher that is alone: in its own memory, without a port and without a host name.

    PyTorch's own meetings ask the network for the name of each address. Without a name service each process waits
    for the answer, then prints a warning.
    """

    NAME = "bigmodel-one-machine"

    def __init__(self, parameters: RendezvousParameters) -> None:
        self._run, self._store = parameters.run_id, dist.HashStore()

    def get_backend(self) -> str:
        return self.NAME

    def next_rendezvous(self) -> RendezvousInfo:
        return RendezvousInfo(self._store, 0, 1, RendezvousStoreInfo("localhost", 0))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run

    def shutdown(self) -> bool:
        return True


rendezvous_handler_registry.register(OneMachine.NAME, OneMachine)


def store_of_attempt(folder: str) -> dist.Store:
    """Return where the ranks of this attempt meet; the attempts before left addresses of ranks that are gone."""
    path = Path(folder, f"attempt-{os.environ['TORCHELASTIC_RESTART_COUNT']}")
    return dist.FileStore(str(path), int(os.environ["WORLD_SIZE"]))
