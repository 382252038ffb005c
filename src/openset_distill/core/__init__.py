"""What every room stands on: errors, files, registry, devices and seeds, signals, commands, provenance."""
