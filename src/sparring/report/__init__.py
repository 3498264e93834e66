"""Reports: every one reads a Result, nothing else."""
