"""Where a search is kept: SQLite in its folder, or a PostgreSQL that several machines share."""

import time
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna import Study
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial
from sqlalchemy.engine import URL

from crossdistill.errors import UserError

# A worker says so often that it is alive; one that was silent for the grace was killed, and another takes its trial.
HEARTBEAT_SECONDS = 15
GRACE_SECONDS = 60
# Of one attempt to connect; a host that drops packets would otherwise keep a worker for minutes.
_CONNECT_SECONDS = 5
_BETWEEN_ATTEMPTS_SECONDS = 1.0

FAILURES = (StorageInternalError, sqlalchemy.exc.SQLAlchemyError)


class Storage(RDBStorage):
    """Optuna's storage whose sign of life may fail for a while: its thread would otherwise end at the first failure."""

    def record_heartbeat(self, trial_id: int) -> None:
        try:
            super().record_heartbeat(trial_id)
        except FAILURES:
            return


def take_up(study: Study, trial: FrozenTrial) -> None:
    """Let a trial that was cut off be followed by another one with its values, which goes on from its checkpoint."""
    RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


def parse_address(storage: str | None, folder: Path) -> URL:
    """The address of a storage.

    Args:
        storage: as `--storage` takes it; None: a file in the folder.
        folder: of the search.

    Raises:
        UserError: no address, or that of another kind of database.
    """
    if storage is None:
        return URL.create("sqlite", database=str(folder / "search.db"))
    try:
        url = sqlalchemy.make_url(storage)
        kind = url.get_backend_name()
    except (sqlalchemy.exc.ArgumentError, ValueError):
        # Not shown: what cannot be parsed may hold a password.
        raise UserError("--storage: give an address such as postgresql://user@host/database") from None
    if kind not in ("postgresql", "postgres", "sqlite"):
        raise UserError(f"--storage {shown(url)}: give an address that begins with postgresql:// or sqlite:///")
    if kind == "sqlite":
        return url
    # SQLAlchemy would take psycopg2 where no driver is named.
    return url.set(drivername="postgresql+psycopg")


def shown(url: URL) -> str:
    """An address for messages: without the password."""
    return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)


def open_storage(url: URL, wait: float) -> Storage:
    """Connect, and make the tables where there are none.

    Args:
        url: from `parse_address`.
        wait: seconds to wait for a database that does not answer, now and whenever a connection is lost.

    Raises:
        UserError: it does not answer, or it is not one of ours.
    """
    arguments: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql":
        # A lost connection is noticed before it is used, and made anew.
        arguments = {"pool_pre_ping": True, "creator": _patient_connection(url, wait)}
    try:
        return Storage(
            url.render_as_string(hide_password=False),
            engine_kwargs=arguments,
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=GRACE_SECONDS,
            heartbeat_stale_trial_callback=take_up,
        )
    except FAILURES as error:
        raise unreachable(url, error) from error
    except RuntimeError as error:
        # Tables of another version of Optuna.
        raise UserError(f"--storage {shown(url)}: {' '.join(str(error).split())}") from error


def unreachable(url: URL, error: BaseException) -> UserError:
    """What is told of a database that does not answer."""
    original = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
    reason = str(original).strip().splitlines()[0]
    if url.password:
        reason = reason.replace(str(url.password), "***")
    return UserError(
        f"the search's database {shown(url)} does not answer ({reason}): when it does, call the same again and the "
        "search goes on"
    )


def storage_failure(error: BaseException | None) -> BaseException | None:
    """The database's failure that an error came from, if it did: Optuna's clean-up may fail on top of it."""
    while error is not None and not isinstance(error, FAILURES):
        error = error.__cause__ or error.__context__
    return error


def _patient_connection(url: URL, wait: float) -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise UserError("--storage postgresql://... needs psycopg: pip install 'crossdistill[tune]'") from error
    _, where = url.get_dialect()().create_connect_args(url)

    def connect() -> psycopg.Connection:
        deadline = time.monotonic() + wait
        while True:
            try:
                return psycopg.connect(**{"connect_timeout": _CONNECT_SECONDS, **where})
            except psycopg.OperationalError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_BETWEEN_ATTEMPTS_SECONDS)

    return connect
