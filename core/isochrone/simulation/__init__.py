"""Virtual time around the production scheduler: worlds, workers, faults, checkers, bounds.

``driver.simulate(world, seed)`` runs a ``world.World``; ``arrivals`` draws schedules (the load
client's, too); ``checkers`` holds the rules that every run must keep; ``clairvoyant`` the most that
any scheduler could have answered; ``swarm`` draws whole worlds from one seed.
"""
