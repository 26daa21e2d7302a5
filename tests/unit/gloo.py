"""Real groups of gloo workers, one process each."""

import contextlib
import multiprocessing
import os
import pickle
import traceback
from datetime import timedelta
from pathlib import Path

TIME_LIMIT_S = 280


def run_workers(function, size, folder, *arguments):
    """``[function(rank, size, *arguments), ...]`` from ``size`` processes joined by gloo.

    A worker that raises gives its exception instead; one that was killed gives None.
    """
    # Children of a fork server that has imported torch already start at once and inherit no threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kineray.training.loop"])
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / f"store-{os.urandom(4).hex()}"
    results = [folder / f"{store.name}-{rank}" for rank in range(size)]
    processes = [
        context.Process(target=_worker, args=(function, rank, size, str(store), results[rank], arguments))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(TIME_LIMIT_S)
            if process.exitcode is None:
                raise TimeoutError(f"a worker of {function.__name__} did not end")
            if process.exitcode < 0:  # killed: the others would wait for it
                break
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
    return [pickle.loads(path.read_bytes()) if path.exists() else None for path in results]


def _worker(function, rank, size, store, result, arguments):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=200)
        )
    try:
        value = function(rank, size, *arguments)
    except Exception as error:
        traceback.print_exc()
        value = error
    result.write_bytes(pickle.dumps(value))
    if size > 1:
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
