"""Blocks from Slurm: sbatch, squeue, sacct and scancel, formatted and parsed."""
