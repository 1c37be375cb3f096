"""How a run goes: done, running, failed and the time that is left, in a terminal and in a log."""

import logging
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

from purify.grid.folder import telling_full_disks
from purify.grid.plan import units
from purify.grid.schedule import Job, Outcome, Schedule, State
from purify.grid.store import Store
from purify.progress import bar

log = logging.getLogger(__name__)

LOG = "grid.log"
_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} cells [{elapsed}{postfix}]"


class Monitor:
    """Shows the state of a schedule on standard error, and appends every change of it to a log.

    Args:
        schedule: What is run.
        store: If it is local, the log is ``grid.log`` in it.
        log: Another file for the log.

    Attributes:
        workers: How many jobs can run at a time, if fewer than are handed out.
    """

    def __init__(self, schedule: Schedule, store: Store, log: Path | None = None) -> None:
        self._bar = bar(total=schedule.total, initial=schedule.done, desc="grid", unit="cell", bar_format=_FORMAT)
        self._log = log or (store.folder.local / LOG if store.folder.local else None)
        self.workers: int | None = None
        self._started = time.monotonic()
        self._left = self._all = sum(map(units, schedule.remaining.values()))
        self._write(schedule, f"begin: {len(schedule.remaining)} stages to run")

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def show(self, schedule: Schedule, job: Job, outcome: Outcome | None = None) -> None:
        """Show the state after a job was begun, or ended with an outcome."""
        if outcome and outcome.state is State.BUSY:
            return
        if outcome:
            self._left -= units(job)
        self._bar.set_postfix_str(
            f"{self._running(schedule)} running, {len(schedule.failed)} failed, ETA {self._eta()}", refresh=False
        )
        self._bar.update(schedule.done - self._bar.n)
        what = "run" if outcome is None else outcome.state.value
        self._write(schedule, f"{what}: {job}" + (f": {outcome.error}" if outcome and outcome.error else ""))

    def _running(self, schedule: Schedule) -> int:
        """At most one job per worker; the others that were handed out wait in its queue."""
        handed_out = len(schedule.running)
        return handed_out if self.workers is None else min(handed_out, self.workers)

    def _eta(self) -> str:
        """The time left, if what is left goes as fast as what has been done."""
        done = self._all - self._left
        if not done:
            return "?"
        seconds = (time.monotonic() - self._started) * self._left / done
        return str(timedelta(seconds=round(seconds)))

    def _write(self, schedule: Schedule, event: str) -> None:
        if self._log:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            state = (
                f"{schedule.done} done, {self._running(schedule)} running, {len(schedule.failed)} failed "
                f"of {schedule.total}, ETA {self._eta()}"
            )
            with telling_full_disks(self._log):
                self._log.parent.mkdir(parents=True, exist_ok=True)
                with self._log.open("a", encoding="utf-8") as file:
                    file.write(f"{now} {state} | {event}\n")
