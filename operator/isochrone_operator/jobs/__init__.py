"""Models in a cluster: builder Jobs, the ModelVariants that come of them, and what is known of both.

``build_steps`` is pure and called by ``reconcile`` at every look, before it plans. What a Job is
asked stands in its ConfigMap, what it answers in the last line of its pod's log
(``isochrone.build_document``: ``RESULT_MARK``, at most ``RESULT_BYTES_MAX``).

What whoever makes the snapshot must see to:

- ``Job.result``: the JSON behind the mark in the last such line of a succeeded pod of the Job. The
  API's ``tailLines`` counts lines of the log file, in which long lines are cut every 16 KiB: ask for
  at least ``LOG_LINES`` of them.
- ``succeeded`` without a result and without ``failed``: the log is still to be read; nothing happens.
- ``succeeded`` without a result and with ``failed``: the log is lost (its pod is gone, or printed no
  such line); the Job is run again under another name, at most ``ATTEMPTS_MAX`` times in all.
- ``failed`` alone: the Job failed; its reason is quoted, and it is not run again before the spec or
  the image changes, or somebody deletes it.

What whoever carries it out must see to: a Job is made once, and its template never changes (its
name carries a digest of it); surplus Jobs are deleted with the propagation policy ``Background``,
so that their pods go too.
"""

from isochrone_operator.jobs.attempts import ATTEMPTS_MAX, LOG_LINES
from isochrone_operator.jobs.steps import build_steps
from isochrone_operator.jobs.values import BuildSteps

__all__ = ["ATTEMPTS_MAX", "LOG_LINES", "BuildSteps", "build_steps"]
