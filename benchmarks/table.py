"""Markdown tables: of ratios, and of whatever else."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

RATIOS = ("case", "measured", "baseline", "ratio (range)", "aim")


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

    def cells(self) -> list[str]:
        ratios = self.ratios
        return [
            self.case,
            self._figure(self.measured),
            self._figure(self.baseline),
            f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
            self.aim,
        ]

    def _figure(self, values: list[float]) -> str:
        value = median(values)
        return f"{value:,.0f} {self.unit}" if value >= 100 else f"{value:.3g} {self.unit}"


def ratios(rows: Iterable[Row]) -> str:
    return markdown(RATIOS, [row.cells() for row in rows], texts={"case", "aim"})


def markdown(
    header: Sequence[str], rows: Iterable[Sequence[str]], texts: Collection[str] = ()
) -> str:
    """A table; the columns not named in `texts` are figures, which stand to the right."""
    rule = ["---" if name in texts else "---:" for name in header]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])
