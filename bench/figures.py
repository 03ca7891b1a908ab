"""What a row of the table holds, and how it is shown."""

import statistics

import msgspec


class Figure(msgspec.Struct, kw_only=True):
    """Runs of the cloud and of the floor, in turn, in `unit`. `met` is None where there is no bar, or where it could not be measured."""

    row: str
    what: str
    unit: str
    ours: list[float]
    floor: list[float] = []
    floor_is: str = ""
    bar: str = ""
    met: bool | None = None
    notes: dict[str, str | float | int] = {}

    @property
    def median(self) -> float:
        return statistics.median(self.ours)

    @property
    def ratio(self) -> float | None:
        """Ours over the floor's."""
        return self.median / statistics.median(self.floor) if self.floor and self.ours else None


def spread(values: list[float]) -> str:
    if not values:
        return "–"
    if len(values) == 1:
        return short(values[0])
    return f"{short(statistics.median(values))} [{short(min(values))}–{short(max(values))}]"


def short(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


VERDICTS = {True: "met", False: "MISSED", None: ""}


def table(figures: list[Figure]) -> str:
    """Markdown, which reads well in a terminal too."""
    lines = [["what", "unit", "Kilonova", "floor", "ratio", "bar", ""]]
    for f in figures:
        ratio = f"{f.ratio:.2f}" if f.ratio is not None else ""
        floor = f"{spread(f.floor)} ({f.floor_is})" if f.floor else ""
        lines.append([f.what, f.unit, spread(f.ours), floor, ratio, f.bar, VERDICTS[f.met]])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines)
