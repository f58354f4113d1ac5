"""The Markdown table of ratios."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

HEADER = (
    "| case | measured | baseline | ratio (range) | aim |\n"
    "|------|---------:|---------:|--------------:|-----|"
)


@dataclass(frozen=True)
class Row:
    """One comparison; `measured` and `baseline` hold a figure for each round."""

    case: str
    measured: list[float]
    baseline: list[float]
    unit: str
    aim: str

    @property
    def ratios(self) -> list[float]:
        """A ratio for each round: what slows the machine for a while slows both its sides."""
        return [ours / bare for ours, bare in zip(self.measured, self.baseline, strict=True)]

    def __str__(self) -> str:
        ratios = self.ratios
        return (
            f"| {self.case} | {self._figure(self.measured)} | {self._figure(self.baseline)} "
            f"| {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) | {self.aim} |"
        )

    def _figure(self, values: list[float]) -> str:
        value = median(values)
        return f"{value:,.0f} {self.unit}" if value >= 100 else f"{value:.3g} {self.unit}"


def markdown(rows: Iterable[Row]) -> str:
    return "\n".join([HEADER, *(str(row) for row in rows)])
