"""From YAML to a validated experiment, and to what each of its jobs is given."""
