"""Where tensors live, and arithmetic that repeats to the bit on the same kind of machine."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Inside, nobody looks for garbage; what is alive afterwards is taken to stay, and not looked at again."""
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if wanted:
            gc.enable()


with uncollected():
    # It makes a hundred thousand objects that stay; to search them for garbage was a tenth of its loading.
    import torch


def setup(*, threads: int = 1, gpu: bool = True) -> torch.device:
    """Pin the threads, ask for deterministic kernels, and choose the device; call once, before any work.

    The number of threads changes the order of sums, and with it the last bits of every weight.
    """
    torch.set_num_threads(threads)
    if not (gpu and torch.cuda.is_available()):
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.device("cuda")
