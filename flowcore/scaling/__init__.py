"""Elasticity: pure strategies (:mod:`.strategy`), and the life of blocks (:mod:`.blocks`)."""
