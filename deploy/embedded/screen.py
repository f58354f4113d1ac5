"""What the person at the terminal sees: one line a step, with the time since the start."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: Where no terminal shows a running counter, a line is printed this often.
QUIET_SECONDS = 10.0


class Step:
    def __init__(self, text: str) -> None:
        self.text = text

    def update(self, text: str) -> None:
        """Say what goes on now; the last text stays."""
        self.text = text


class Screen:
    def __init__(self) -> None:
        self.started = float(os.environ.get("QUICKSTART_STARTED") or time.time())
        # Held on to: while Django's output is redirected to a log, sys.stdout is that log.
        self.stream = sys.stdout
        self.live = self.stream.isatty()

    @property
    def elapsed(self) -> str:
        return f"{time.time() - self.started:6.1f} s"

    def line(self, text: str = "") -> None:
        self._write(f"{text}\n")

    @contextmanager
    def step(self, text: str) -> Iterator[Step]:
        """Show a running step until it ends; a failed one leaves no line."""
        step, done = Step(text), threading.Event()
        ticker = threading.Thread(target=self._tick, args=(step, done), daemon=True)
        ticker.start()
        finished = False
        try:
            yield step
            finished = True
        finally:
            done.set()
            ticker.join()
            if self.live:
                self._write("\r\033[K")
            if finished:
                self.line(f"{self.elapsed}  {step.text}")

    def _tick(self, step: Step, done: threading.Event) -> None:
        while not done.wait(0.1 if self.live else QUIET_SECONDS):
            if self.live:
                self._write(f"\r\033[K{self.elapsed}  {step.text} …")
            else:
                self.line(f"{self.elapsed}  {step.text} …")

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except BrokenPipeError:
            # Nobody reads on, as after `| head`: no reason to stop half-way.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
