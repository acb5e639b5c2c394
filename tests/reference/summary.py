#!/usr/bin/env python3
"""Windows of time by the standard library: set, channel and `start:min:max:mean:std:count` of each, a line each.

usage: summary.py SECONDS FILE.csv.gz ...

A window is a run of neighbouring readings of one multiple of SECONDS: a clock that steps back begins another.
"""
import csv
import gzip
import itertools
import os
import statistics
import sys

width = int(sys.argv[1]) * 1_000_000
for path in sys.argv[2:]:
    name = os.path.basename(path).replace(".csv.gz", "")
    channels = {}
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            reading = (round(float(row["timestamp"]) * 1e6), float(row["value"]))
            channels.setdefault(row["channel"], []).append(reading)
    for channel, readings in channels.items():
        told = []
        for start, window in itertools.groupby(readings, lambda reading: reading[0] // width * width):
            values = [value for _, value in window]
            mean, deviation = statistics.fmean(values), statistics.pstdev(values)
            told.append(f"{start}:{min(values)!r}:{max(values)!r}:{mean!r}:{deviation!r}:{len(values)}")
        print(name, channel, " ".join(told), sep="\t")
