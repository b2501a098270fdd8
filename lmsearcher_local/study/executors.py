"""Where trials are evaluated: in this process, in processes of this machine, on a Dask or a Ray cluster."""

from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

from lmsearcher_local.errors import ObjectiveError, SearchStopped, StudyError
from lmsearcher_local.spaces.space import Configuration
from lmsearcher_local.study.objectives.base import (
    Measured,
    Objective,
    ObjectiveFailed,
    Watch,
    WorkerLost,
    check_measured,
    describe_error,
)
from lmsearcher_local.study.objectives.call import forks_end_here
from lmsearcher_local.study.objectives.steps import StoppedEarly

CONNECTING = 20  # seconds to wait for a cluster
# What Dask and Ray raise after a task's worker died once too often, by name: neither need be installed.
DEATHS = ("KilledWorker", "WorkerCrashedError", "OutOfMemoryError", "NodeDiedError")


class Outcome(NamedTuple):
    """What came of an evaluation: what was measured, or the reason why nothing was.

    ``lost``: its process died, try again. ``stops``: nothing can be evaluated, the search ends. ``pruned``: the pruner
    stopped it.
    """

    value: Measured | None
    reason: str = ""
    lost: bool = False
    stops: bool = False
    pruned: bool = False


def evaluate(objective: Objective, code: str, configuration: Configuration, watch: Watch | None = None) -> Outcome:
    """Evaluate one configuration, here or wherever an executor runs this."""
    watched = {"watch": watch} if watch else {}
    try:
        with forks_end_here():
            value: object = objective(code, configuration, **watched)
        return Outcome(check_measured(value))
    except ObjectiveFailed as error:
        return Outcome(None, str(error), lost=isinstance(error, WorkerLost), pruned=isinstance(error, StoppedEarly))
    except ObjectiveError as error:
        return Outcome(None, str(error), stops=True)
    except (Exception, SystemExit) as error:
        return Outcome(None, describe_error(error))


def outcome_of(future: "Future[Outcome]") -> Outcome:
    """What came of a future that is done; ``SearchStopped`` where the executor is broken or nothing can be called."""
    try:
        found = future.result()
    except Exception as error:  # whatever an executor raises
        reason = describe_error(error)
        if type(error).__name__ in DEATHS:
            return Outcome(None, f"its worker died ({reason})")
        state = "is broken" if isinstance(error, BrokenExecutor) else "cannot run the objective"
        raise SearchStopped(f"the executor {state}: {reason}; mend it, then resume the study") from error
    if found.stops:
        raise SearchStopped(f"{found.reason}; mend it, then resume the study")
    return found


def submit(
    executor: Executor, objective: Objective, code: str, configuration: Configuration, watch: Watch | None = None
) -> "Future[Outcome]":
    """The future of one evaluation; with an executor that broke meanwhile, one that says so as others do."""
    try:
        return executor.submit(evaluate, objective, code, configuration, watch)
    except BrokenExecutor as error:
        broken: Future[Outcome] = Future()
        broken.set_exception(error)
        return broken
    except Exception as error:
        reason = describe_error(error)
        raise ObjectiveError(f"the executor does not take {objective.name}: {reason}") from error


class Inline(Executor):
    """Evaluates at once, in the thread that submits."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future


class RayExecutor(Executor):
    """Tasks of the Ray cluster that this process is connected to; one whose worker dies runs once more."""

    def __init__(self) -> None:
        self._remote = import_module("ray").remote(max_retries=1)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = self._remote(function).remote(*args, **kwargs).future()
        return future


@contextmanager
def _dask(distributed: Any, address: str) -> Iterator[tuple[Executor, int]]:
    try:
        client = distributed.Client(address, timeout=CONNECTING, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise StudyError(f"no Dask scheduler answers at {address}: {' '.join(str(error).split())}") from error
    with client:
        yield client.get_executor(pure=False), sum(client.nthreads().values())


@contextmanager
def _ray(ray: Any, address: str) -> Iterator[tuple[Executor, int]]:
    try:
        ray.init(address, log_to_driver=False, logging_level="WARNING")
    except (OSError, ValueError, RuntimeError, TimeoutError) as error:
        raise StudyError(f"no Ray cluster answers at {address}: {' '.join(str(error).split())}") from error
    try:
        yield RayExecutor(), int(ray.cluster_resources().get("CPU", 0))
    finally:
        ray.shutdown()


CLUSTERS = {"dask": ("distributed", _dask), "ray": ("ray", _ray)}  # a package, and what connects with it


@contextmanager
def connect(spec: str) -> Iterator[tuple[Executor, int]]:
    """The executor that ``dask:ADDRESS`` or ``ray:ADDRESS`` names, and how many trials its cluster evaluates at once.

    Raises:
        StudyError: no such executor, its package is not installed, or the cluster does not answer or has no workers.
    """
    kind, _, address = spec.partition(":")
    if kind not in CLUSTERS or not address:
        raise StudyError(f"an executor is written {' or '.join(f'{name}:ADDRESS' for name in CLUSTERS)}, not {spec!r}")
    package, connect_with = CLUSTERS[kind]
    try:
        library = import_module(package)
    except ImportError as error:
        raise StudyError(f"--executor {kind} needs a package: pip install 'lmsearcher-local[{kind}]'") from error
    with connect_with(library, address) as (executor, slots):
        if not slots:
            raise StudyError(f"the {kind} cluster at {address} has no workers yet; start some first")
        yield executor, slots
