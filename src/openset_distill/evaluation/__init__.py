"""From outputs to metrics."""
