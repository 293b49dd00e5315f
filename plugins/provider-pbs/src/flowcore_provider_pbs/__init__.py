"""Blocks from PBS Pro, OpenPBS and Torque: qsub, qstat and qdel, formatted and parsed."""
