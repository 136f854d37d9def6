"""Clockwork, as published: a controller that predicts every action, and workers that obey.

Follows Gujarati et al., "Serving DNNs like Clockwork: Performance Predictability from the Bottom
Up" (OSDI 2020), sections 4 and 5, with the constants of the released code (``settings``), which has
two rules for inference: ``infer4``, a strategy per request and batch size, and ``infer5``, a queue
per model and batch size. ``controller.Clockwork`` is the decider. ``estimates``, ``tracker`` and
``demand`` are what it predicts with.

Set right, where the released code errs: loading stops when no demand is unmet (a pointer was
compared with 0); load demand expires (the amount was zeroed before it was subtracted); an objective
shorter than the buffer is clamped, not wrapped around.

Left out: GPU clocks (execution samples are scaled by them; here clocks are fixed), limits on
network concurrency and the deadline for beginning to send (simulated links have no bandwidth), the
load phase before a run, disk, loads sent ahead of time (an unload runs in the executor's own order
here, so a load is sent when what was moved before it is confirmed). As published, there is no retry and no fault
tolerance: a rejected action's requests get an error, those on a lost worker fail.
"""
