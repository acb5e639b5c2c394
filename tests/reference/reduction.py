#!/usr/bin/env python3
"""What a reference implementation forwards: set, percent, channel and the forwarded readings as `time:value`, a line each.

usage: reduction.py REFERENCE_FOLDER CLASS 'PERCENT ...' FILE.csv.gz ...

CLASS is one of the reference's `cells.py`. Times are integer microseconds, as in a cell.
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


for path in sys.argv[4:]:
    name = os.path.basename(path).replace(".csv.gz", "")
    channels = {}
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            reading = (round(float(row["timestamp"]) * 1e6), float(row["value"]))
            channels.setdefault(row["channel"], []).append(reading)
    for percent in sys.argv[3].split():
        for channel, readings in channels.items():
            cell = getattr(cells, sys.argv[2])(float(percent) / 100.0 * span([value for _, value in readings]))
            kept = [sample for time, value in readings for sample in cell.feed(time, value)] + cell.flush()
            print(name, percent, channel, " ".join(f"{time}:{value!r}" for time, value in kept), sep="\t")
