"""Events in, actions out: the heart of the data plane, and a pure function of what it was told.

``Scheduler.handle(event, now)`` and ``Scheduler.next_wakeup()`` are the whole surface. The live
gateway and the simulator are two thin drivers around it.
"""
