"""Datasets: what exists (`catalog`), fetching it (`download`), reading its archives (`archives`, `readers`), decoding
it once (`prepare`) and opening what was prepared (`prepared`)."""
