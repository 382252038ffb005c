"""From results to tidy tables, and from tidy tables to figures and tables."""
