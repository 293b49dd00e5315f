"""Blocks from Slurm: sbatch, squeue, sacct, scontrol and scancel, formatted and parsed."""
