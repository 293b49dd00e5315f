"""Means of a value over stretches of time, from sums that a database makes.

Rule of this module: pure. A value changes at moments, by amounts; the area below its curve up to a moment t is the sum
over all changes before t of amount * (t - moment). So for each stretch the sum of the amounts, and of the amounts times
their moments, give its exact mean, whatever the number of changes.
"""

from __future__ import annotations

#: Stretches of time in a chart.
BINS = 240


class Changes:
    """The changes of one value, in stretches of equal length from moment 0 on.

    Args:
        count: of stretches.
        width: of each, in seconds.
    """

    def __init__(self, count: int, width: float) -> None:
        self._width = width
        self._amounts = [0.0] * count
        self._moments = [0.0] * count

    def add(self, stretch: int, amounts: float, amounts_by_moment: float) -> None:
        """Add changes within one stretch.

        Args:
            stretch: its number. A moment at the very end belongs to the last one; what is later is left out, and what
                was before is so from the beginning.
            amounts: their sum.
            amounts_by_moment: the sum of each times its moment.
        """
        last = len(self._amounts) - 1
        if stretch < 0:
            self._amounts[0] += amounts
        elif stretch <= last + 1:
            self._amounts[min(stretch, last)] += amounts
            self._moments[min(stretch, last)] += amounts_by_moment

    def means(self, factor: float = 1.0) -> tuple[float, ...]:
        """Return the mean of the value over each stretch, times a factor."""
        found, value = [], 0.0
        for i, (amount, moment) in enumerate(zip(self._amounts, self._moments, strict=True)):
            area = value * self._width + amount * (i + 1) * self._width - moment
            value += amount
            # Sums of many numbers are a little off.
            found.append(max(0.0, round(factor * area / self._width, 6)))
        return tuple(found)
