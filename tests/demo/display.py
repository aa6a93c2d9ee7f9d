"""What a person sees: a list of stages with progress bars on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column, Table
from rich.text import Text


@dataclass(frozen=True)
class Row:
    """One line of the closing table: what was claimed, who was asked, what they answered, and whether it holds."""

    claim: str
    asked: str
    answer: str
    ok: bool


class Seconds(ProgressColumn):
    """How long a stage took, or takes: minutes would waste the width."""

    def render(self, task: Task) -> Text:
        elapsed = task.finished_time if task.finished else task.elapsed
        return Text("" if elapsed is None else f"{elapsed:4.0f} s", style="dim")


class Stage:
    """One stage while it runs. `step` says how far; a stage that cannot count says only what it does."""

    def __init__(self, display: Display, number: int, title: str, task: TaskID) -> None:
        self.display = display
        self.number = number
        self.title = title
        self.task = task
        self.note = ""

    def step(self, done: float, total: float, note: str = "") -> None:
        self.display.update(self, done, total, note)

    def say(self, note: str) -> None:
        self.display.update(self, None, None, note)


class Display:
    def __init__(self, titles: Sequence[str], *, plain: bool) -> None:
        self.console = Console(force_terminal=None if not plain else False, highlight=False)
        self.live = self.console.is_terminal and not plain
        self.started = time.monotonic()
        self.progress = Progress(
            TextColumn("{task.fields[mark]}"),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=16, table_column=Column(min_width=16)),
            Seconds(table_column=Column(min_width=6, no_wrap=True)),
            TextColumn(
                "{task.fields[note]}",
                style="dim",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=self.console,
            expand=True,
            disable=not self.live,
        )
        width = max(map(len, titles))
        self.stages = [
            Stage(
                self,
                number,
                title,
                self.progress.add_task(f"{number:2} {title:{width}}", start=False, total=1, mark=" ", note=""),
            )
            for number, title in enumerate(titles, 1)
        ]

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.progress:
            yield

    @contextmanager
    def stage(self, index: int) -> Iterator[Stage]:
        """Run a stage; an exception marks it as failed and goes on its way."""
        stage = self.stages[index]
        began = time.monotonic()
        self.progress.start_task(stage.task)
        self.progress.update(stage.task, mark="[yellow]▶[/]", total=None)
        self._line(f"[{stage.number:2}/{len(self.stages)}] {stage.title} ...")
        try:
            yield stage
        except BaseException:
            self.progress.update(stage.task, mark="[red]✗[/]", total=1)
            self.progress.stop_task(stage.task)
            raise
        self.progress.update(stage.task, mark="[green]✓[/]", total=1, completed=1)
        self.progress.stop_task(stage.task)
        self._line(f"        done in {time.monotonic() - began:.1f} s  {stage.note}".rstrip())

    def update(self, stage: Stage, done: float | None, total: float | None, note: str) -> None:
        if done is not None and total is not None:
            self.progress.update(stage.task, completed=min(done, total), total=total)
        if note and note != stage.note:
            stage.note = note
            self.progress.update(stage.task, note=note)
            self._line(f"        {note}")

    def _line(self, text: str) -> None:
        if not self.live:
            print(f"{time.monotonic() - self.started:6.1f}s {text}", flush=True)

    def table(self, rows: Sequence[Row]) -> None:
        table = Table(title="What the other side says", title_justify="left", show_lines=False)
        table.add_column("", no_wrap=True)
        table.add_column("claim")
        table.add_column("asked", style="cyan")
        table.add_column("answer")
        for row in rows:
            mark = "[green]yes[/]" if row.ok else "[bold red]NO[/]"
            table.add_row(mark, row.claim, row.asked, row.answer, style=None if row.ok else "red")
        console = self.console if self.live else Console(width=150, file=sys.stdout, highlight=False)
        console.print(table)
