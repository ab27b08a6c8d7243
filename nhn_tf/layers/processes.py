"""Several processes that train together, on JAX: who this one is, where they wait for each other, and how they end.

Rank 0 alone writes to the run's directory, and decides when to stop: signals that reach another rank are passed on to
it. Where a process is lost, JAX ends the others, in native code and wherever they are; what is then to be said and
tidied stands ready in a small process beside each.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from nhn_tf.errors import UserError
from nhn_tf.storage import stopping

LOOK_SECONDS: Final = 0.5
FAREWELL_SECONDS: Final = 10.0
"""How long rank 0 waits for the others to end with it."""
_LONGEST_MS: Final = 2**31 - 1
_STOP, _ENDED, _SEEN = "nhn_tf/stop", "nhn_tf/ended", "nhn_tf/seen"
_LAST_WORDS: Final = """
import shutil, sys
if not sys.stdin.buffer.read():
    print(sys.argv[1], file=sys.stderr, flush=True)
shutil.rmtree(sys.argv[2], ignore_errors=True)
"""

_client: Any = None  # of JAX's coordination service
_rank, _count = 0, 1
_meetings = itertools.count()
_words: subprocess.Popen | None = None
_scratch: str | None = None


def join(coordinator: str | None = None, rank: int | None = None, ranks: int | None = None) -> None:
    """Joins this process to the others, before anything is computed; what is None the launcher's environment says.

    That is read as JAX reads it: Slurm's, Open MPI's, Kubernetes's. Where nothing is said there is this process alone.

    Args:
      coordinator: address of rank 0 and a free port there, such as "10.0.0.1:1234".
      rank: of this process, from 0.
      ranks: how many processes there are.

    Raises:
      UserError: too little is said, or the others do not answer.
    """
    global _client, _rank, _count
    import jax
    from jax._src.distributed import global_state

    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM over
    try:
        jax.distributed.initialize(coordinator, ranks, rank)
    except Exception as error:  # of any kind, where JAX asks a launcher
        nothing = (coordinator, rank, ranks) == (None, None, None) and "JAX_COORDINATOR_ADDRESS" not in os.environ
        if nothing and isinstance(error, ValueError):
            return
        where = f" at `coordinator`={coordinator}" if coordinator else ""
        raise UserError(
            f"the processes{where} cannot be joined: {type(error).__name__}: {_first(error)}\n"
            "`coordinator`, `rank` and `ranks` must say who trains together, or the launcher's environment. "
            "This process alone is `coordinator`=localhost:1234 `rank`=0 `ranks`=1."
        ) from None
    _rank, _count = global_state.process_id, global_state.num_processes
    if _count == 1:
        return
    _client = global_state.client
    if jax.local_device_count() * _count != jax.device_count():
        raise UserError(
            f"every rank must have as many devices. Received: {jax.local_device_count()} of {jax.device_count()} at "
            f"rank {_rank} of {_count}."
        )
    _leave_last_words()
    if _rank:
        stopping.hand_over(lambda signum: _client.key_value_set(_STOP, str(signum), allow_overwrite=True))
    threading.Thread(target=_listen, name="ranks", daemon=True).start()


def rank() -> int:
    """The number of this process among those that train together, from 0."""
    return _rank


def count() -> int:
    """How many processes train together."""
    return _count


def meet(alike: Mapping[str, object] = {}) -> None:
    """Waits until every process has come as far.

    Args:
      alike: what must be the same for all, under the words that an error has for it; values as in JSON.

    Raises:
      UserError: it is not; every process raises it.
    """
    if _client is None:
        return
    place = f"nhn_tf/meeting/{next(_meetings)}"
    _client.key_value_set(f"{place}/{_rank}", json.dumps(alike))
    told = [json.loads(_client.blocking_key_value_get(f"{place}/{rank}", _LONGEST_MS)) for rank in range(_count)]
    for rank, other in enumerate(told):
        if other != told[0]:
            names = [name for name in {**told[0], **other} if told[0].get(name) != other.get(name)]
            raise UserError(
                f"every rank must train the same. Of rank {rank} other than of rank 0: {', '.join(names)}.\n"
                "Give the same command on every rank, and let all see the same images and `model_dir`."
            )


def scratch() -> str | None:
    """A directory that goes when this process ends, in whatever way; None where there is one process alone."""
    return _scratch


def is_loss(error: BaseException) -> bool:
    """Whether an error is what JAX raises where another process is gone."""
    return any(word in str(error) for word in ("Gloo", "NCCL", "oordination"))


def end(code: int, *, told: bool = True) -> None:
    """Ends this process, if it is one of several; rank 0 takes the others along.

    Args:
      code: its exit code. With 0 it only waits for the others.
      told: whether the user knows why.
    """
    if _client is None:
        return
    if not code:
        meet()
    elif _rank:
        _say_goodbye()
    else:
        _take_along(code)
    if told:
        _keep_silent()
    if code:
        _exit(code)


def _take_along(code: int) -> None:
    with contextlib.suppress(Exception):  # they may be gone
        _client.key_value_set(_ENDED, str(code))
        until = time.monotonic() + FAREWELL_SECONDS
        while time.monotonic() < until and int(_value(_SEEN) or 0) < _count - 1:
            time.sleep(LOOK_SECONDS / 5)


def _say_goodbye() -> None:
    with contextlib.suppress(Exception):  # rank 0 may be gone
        _client.key_value_increment(_SEEN, 1)


def _listen() -> None:
    """Rank 0 hears of a signal that another has got, the others of rank 0's end."""
    while True:
        time.sleep(LOOK_SECONDS)
        heard = _value(_ENDED if _rank else _STOP)
        if heard and _rank:
            _keep_silent()
            _say_goodbye()
            _exit(int(heard))
        if heard and stopping.requested() is None:
            stopping.request(int(heard))


def _value(key: str) -> str:
    """What a process has left for the others under a key; "" before it has."""
    from jax.errors import JaxRuntimeError

    try:
        return _client.key_value_try_get(key)
    except JaxRuntimeError:  # whether there is nothing or nobody
        return ""


def _leave_last_words() -> None:
    global _words, _scratch
    _scratch = tempfile.mkdtemp(prefix="nhn_tf_rank_")
    sentence = (
        f"error: rank {_rank} has ended before its time: it, or another rank, was ended or lost.\n"
        "The same command on every rank goes on from the last checkpoint."
    )
    command = [sys.executable, "-I", "-S", "-c", _LAST_WORDS, sentence, _scratch]
    _words = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)


def _keep_silent() -> None:
    if _words is not None and _words.stdin is not None and not _words.stdin.closed:
        with contextlib.suppress(OSError):
            _words.stdin.write(b"all is told")
            _words.stdin.close()


def _exit(code: int) -> NoReturn:
    """Ends at once: JAX's own end would wait for processes that may be gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _first(error: BaseException) -> str:
    return str(error).split("\n", 1)[0]
