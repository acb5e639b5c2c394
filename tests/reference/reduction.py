#!/usr/bin/env python3
"""What a reference implementation forwards: set, percent, channel and the forwarded readings as `time:value`, a line each.

usage: reduction.py REFERENCE_FOLDER CLASS 'PERCENT ...' FILE.csv.gz ...

CLASS is one of the reference's `cells.py`. Times are integer microseconds, as in a cell. The reference's deadband takes the rounding
of a difference for a move; porin's does not, so the same rule is put before it here.
"""
import csv
import gzip
import os
import sys

sys.path.insert(0, sys.argv[1])
import cells  # noqa: E402


def span(values):
    """p99.5 - p0.5, or the whole range where that is nothing."""
    ordered = sorted(values)
    count = len(ordered)
    width = ordered[min(count - 1, int(count * 0.995))] - ordered[int(count * 0.005)]
    return width or ordered[-1] - ordered[0]


class Deadband(cells.Deadband):
    """Drops a move of exactly the bound, whatever its binary rounding."""

    def feed(self, time, value):
        if self.last is not None:
            rounding = (abs(value) + abs(self.last) + self.e) * 2.0**-52
            if abs(value - self.last) - self.e <= rounding:
                return []
        return super().feed(time, value)


CLASSES = {"Deadband": Deadband}

for path in sys.argv[4:]:
    name = os.path.basename(path).replace(".csv.gz", "")
    channels = {}
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            reading = (round(float(row["timestamp"]) * 1e6), float(row["value"]))
            channels.setdefault(row["channel"], []).append(reading)
    for percent in sys.argv[3].split():
        for channel, readings in channels.items():
            of = CLASSES.get(sys.argv[2]) or getattr(cells, sys.argv[2])
            cell = of(float(percent) / 100.0 * span([value for _, value in readings]))
            kept = [sample for time, value in readings for sample in cell.feed(time, value)] + cell.flush()
            print(name, percent, channel, " ".join(f"{time}:{value!r}" for time, value in kept), sep="\t")
