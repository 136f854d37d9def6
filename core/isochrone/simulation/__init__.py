"""Virtual time around the production scheduler: worlds, workers, faults, checkers, bounds.

``driver.simulate(world, seed)`` runs a ``world.World``, and ``engine`` makes things happen in it.
``arrivals`` draws schedules (the load client's, too), ``streams`` many at once, ``synthetic`` and
``counts`` traces; ``replay`` makes a world of a recorded run. ``checkers`` holds the rules that every
run must keep, ``clairvoyant`` the most that any scheduler could have answered; ``swarm`` draws whole
worlds from one seed and checks every rule on each.
"""
