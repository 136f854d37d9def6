"""Other systems' policies as deciders: the same events, actions, workers and noise as ours.

Run by ``driver.drive``; made by benchmarks and tests. One file per policy, each naming the system
that it follows, and what it leaves out. They share ``floor`` and ``facts``, which none of those
systems is about, and ``placing`` (holding what the plan says, where a system has no policy).

Batching policies take requests of one row, as those systems do; the KAIROS family takes a request
as one query of so many rows. What does not suit a policy is refused as ``no_route``. None of them
tries again what was under way on a worker that is lost: that is ``failed``, ``executor_lost``.
"""
