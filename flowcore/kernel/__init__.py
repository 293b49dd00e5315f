"""The kernel: a pure state machine (:mod:`.machine`) in a thin shell (:mod:`.kernel`) that acts for it."""
