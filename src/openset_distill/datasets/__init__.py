"""Datasets: what exists (`catalog`), fetching it (`download`), reading its archives (`unpack`, `safe_pickle`),
decoding it once (`read`, `pack`)."""
