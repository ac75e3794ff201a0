"""Where a search is kept: SQLite in its folder, or a PostgreSQL that several machines share."""

import time
from collections.abc import Callable
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
_ATTEMPTS_AT_TABLES = 5

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


def open_storage(url: URL, wait: float, say: Callable[[str], None]) -> Storage:
    """Connect, and make the tables where there are none.

    Args:
        url: from `parse_address`.
        wait: seconds to wait for a database that does not answer, now and whenever a connection is lost.
        say: tells the user of the wait.

    Raises:
        UserError: it does not answer, or it is not one of ours.
    """
    arguments: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql":
        # A lost connection is noticed before it is used, and made anew.
        arguments = {"pool_pre_ping": True, "creator": _patient_connection(url, wait, say)}
    for attempt in range(_ATTEMPTS_AT_TABLES):
        try:
            return Storage(
                url.render_as_string(hide_password=False),
                engine_kwargs=arguments,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
                heartbeat_stale_trial_callback=take_up,
            )
        except FAILURES as error:
            # Two workers that come first both find no tables, and one of them fails to make them.
            if attempt + 1 == _ATTEMPTS_AT_TABLES or not _made_by_another(error):
                raise unusable(url, error) from error
            time.sleep(_BETWEEN_ATTEMPTS_SECONDS)
        except RuntimeError as error:
            # Tables of another version of Optuna.
            raise UserError(f"--storage {shown(url)}: {' '.join(str(error).split())}") from error
    raise AssertionError("the last attempt returns or raises")


def unusable(url: URL, error: BaseException) -> UserError:
    """What is told of a database that does not answer or fails."""
    original = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
    return UserError(
        f"the search's database {shown(url)} cannot be used ({_reason(url, original)}): when it can, call the same "
        "again and the search goes on"
    )


def _reason(url: URL, error: BaseException) -> str:
    reason = str(error).strip().splitlines()[0]
    return reason.replace(str(url.password), "***") if url.password else reason


def _made_by_another(error: BaseException) -> bool:
    told = str(error)
    return isinstance(error, sqlalchemy.exc.IntegrityError) or "already exists" in told or "duplicate key" in told


def storage_failure(error: BaseException | None) -> BaseException | None:
    """The database's failure that an error came from, if it did: Optuna's clean-up may fail on top of it."""
    while error is not None and not isinstance(error, FAILURES):
        error = error.__cause__ or error.__context__
    return error


def _patient_connection(url: URL, wait: float, say: Callable[[str], None]) -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise UserError("--storage postgresql://... needs psycopg: pip install 'crossdistill[tune]'") from error
    _, where = url.get_dialect()().create_connect_args(url)

    def connect() -> psycopg.Connection:
        deadline, told = time.monotonic() + wait, False
        while True:
            try:
                return psycopg.connect(**{"connect_timeout": _CONNECT_SECONDS, **where})
            except psycopg.OperationalError as error:
                if time.monotonic() >= deadline:
                    raise
                if not told:
                    say(f"waiting up to {wait:g} s for the database {shown(url)} ({_reason(url, error)})")
                told = True
                time.sleep(_BETWEEN_ATTEMPTS_SECONDS)

    return connect
