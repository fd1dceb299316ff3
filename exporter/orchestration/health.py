"""Whether everything that the app needs is within reach."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from exporter.errors import ExporterError
from exporter.logs import cause_of

logger = logging.getLogger(__name__)

FRESH_S = 20.0  # how old an answer may be: anybody may ask, and each new one reads the vault
ANSWER_S = 5.0  # how long each part may take
OK: Final = "ok"


@dataclass(frozen=True, slots=True)
class Answer:
    """What looking at a part came to.

    attention: it works, and somebody should look at it. hint: the one thing to do.
    """

    state: Literal["ok", "attention", "failed"]
    said: str = ""
    hint: str = ""

    def as_text(self) -> str:
        """Write it as "ok", with a remark if there is one, or as what is wrong."""
        text = f"{self.said} {self.hint}".strip()
        if self.state == "failed":
            return text
        return f"{OK}: {text}" if self.state == "attention" else OK


# None: all is well. An ExporterError is raised where something is wrong.
Check = Callable[[], Answer | None]

NO_ANSWER = Answer("failed", "did not answer in time.", "Look at its page in the Azure portal.")
DEFECT = Answer(
    "failed",
    "failed for a reason that the app does not know.",
    "Look for this moment in the logs.",
)


class Health:
    """Asks all parts side by side, and keeps the answers for a while. Safe for threads.

    Nobody waits for longer than ANSWER_S, and no lock is held meanwhile. A part that hangs is not
    asked again until it has answered.
    """

    def __init__(
        self,
        checks: Mapping[str, Check],
        *,
        clock: Callable[[], float],
        answer_s: float = ANSWER_S,
        no_answer: Answer = NO_ANSWER,
    ) -> None:
        """checks: by name, what looks at each part. no_answer: of a part that hangs."""
        self.checks = checks
        self._parts = {name: _Part(name, check, clock, no_answer) for name, check in checks.items()}
        self._answer_s = answer_s

    def check(self) -> dict[str, str]:
        """Return for each part "ok", with a remark if there is one, or what is wrong with it."""
        return {name: answer.as_text() for name, answer in self.answers().items()}

    def answers(self) -> dict[str, Answer]:
        """Return each part's answer."""
        asked = [(name, part, part.ask()) for name, part in self._parts.items()]
        deadline = time.monotonic() + self._answer_s
        return {name: part.answer(done, deadline) for name, part, done in asked}


class _Part:
    """One part, its last answer, and the question that is under way."""

    def __init__(
        self, name: str, check: Check, clock: Callable[[], float], no_answer: Answer
    ) -> None:
        self._name, self._check, self._clock = name, check, clock
        self._no_answer = no_answer
        self._lock = threading.Lock()
        self._answer, self._answered_at = no_answer, -FRESH_S
        self._asking: threading.Event | None = None

    def ask(self) -> threading.Event | None:
        """Begin to ask, unless the last answer is fresh; return what is set when it is there."""
        with self._lock:
            if self._asking is None and not 0 <= self._clock() - self._answered_at < FRESH_S:
                self._asking = threading.Event()
                thread = threading.Thread(
                    target=self._run, args=(self._asking,), name=f"health {self._name}", daemon=True
                )
                thread.start()
            return self._asking

    def answer(self, done: threading.Event | None, deadline: float) -> Answer:
        """Return the answer, or that there is none yet."""
        if done is not None and not done.wait(max(0.0, deadline - time.monotonic())):
            return self._no_answer
        with self._lock:
            return self._answer

    def _run(self, done: threading.Event) -> None:
        answer = _outcome(self._check)
        with self._lock:
            self._answer, self._answered_at = answer, self._clock()
            self._asking = None
        done.set()


def is_ok(answer: str) -> bool:
    """Say whether a part works; it may have a remark."""
    return answer.partition(":")[0] == OK


def _outcome(check: Check) -> Answer:
    try:
        return check() or Answer(OK)
    except ExporterError as exc:
        return Answer("failed", exc.message, exc.hint)
    except Exception as exc:  # noqa: BLE001 - the edge of a thread: whoever asks must be told
        logger.error("health check failed", extra={"cause": cause_of(exc)})
        return DEFECT
