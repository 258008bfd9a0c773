"""Several processes that train one student together, a GPU each: everything that is said to torch.distributed.

Each process runs its rows of the batch that one process would have drawn, is sent the features of the others' rows,
and computes the loss of the whole batch with a gradient through its own rows. The sum of all processes' gradients is
then the gradient of one process on the whole batch, also for losses over pairs of images.

In a process that torchrun did not start, nothing here does anything.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from distillation.plan import ON_EVERY_GPU
from distillation.protocol import INTERRUPTED

LONGEST_WAIT = timedelta(hours=12)
"""For a process that embeds more photos than another. One that dies is noticed at once, by torchrun."""
PARENT_SECONDS = 0.2


def processes_for(stage: str, batch_size: int) -> int:
    """How many processes a stage should have: one for each GPU that is seen, each with an image of the batch."""
    if stage not in ON_EVERY_GPU or dist.is_torchelastic_launched():
        return 1
    return max(1, min(torch.cuda.device_count(), batch_size))


def start(request_file: Path, processes: int) -> int:
    """Run a stage in ``processes`` processes of this machine, as torchrun does; its exit status.

    They write to this process's streams. SIGTERM is handed on to them.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    stage = ["-m", "distillation", "stage", str(request_file)]
    try:
        run(parse_args(["--standalone", f"--nproc-per-node={processes}", *stage]))
    except SignalException:
        return INTERRUPTED
    except ChildFailedError:  # the process that failed has said why
        return 1
    return 0


def join() -> None:
    """Become one of the processes, if torchrun started this one; with GPUs, take the one of this rank's number."""
    if not dist.is_torchelastic_launched():
        return
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    on_gpu = torch.cuda.is_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=LONGEST_WAIT)
    if on_gpu:
        torch.cuda.set_device(rank())


def leave() -> None:
    """Part in peace: every process has done its work."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def own_rows(count: int) -> slice:
    """This process's rows of a batch of ``count``; sizes differ by at most one."""
    return slice(count * rank() // size(), count * (rank() + 1) // size())


def rows_of_all(rows: Tensor, count: int) -> Tensor:
    """The whole batch ``(count, ...)`` from every process's :func:`own_rows`; the gradient goes to this one's."""
    if size() == 1:
        return rows
    own = own_rows(count)
    whole = rows.new_zeros((count, *rows.shape[1:]))
    whole[own] = rows.detach()
    dist.all_reduce(whole)  # adds zeros: exact, and parts of unequal size are no special case
    return torch.cat([whole[: own.start], rows, whole[own.stop :]])


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over the processes, in one message."""
    if size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, summed in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(summed.view(gradient.shape))


def largest(value: float) -> float:
    """The largest of the processes' values, for what all must agree on: the clock, a request to stop."""
    if size() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return float(shared)


def wait_for_all() -> None:
    """Return once every process has come here."""
    largest(0.0)


def with_shared_statistics(student: nn.Module) -> nn.Module:
    """Let batch normalisation see the whole batch. Names and shapes of the state stay; on a CPU nothing changes.

    torch has no such layer for CPUs: there, each process normalises by its own rows.
    """
    if size() == 1 or next(student.parameters()).device.type == "cpu":
        return student
    converted: nn.Module = convert_sync_batchnorm(student)
    return converted


def _end_with(parent: int) -> None:
    """torchrun's processes have a session of their own: when it is killed, nobody else would end them."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
