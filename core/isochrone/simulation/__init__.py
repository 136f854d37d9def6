"""Virtual time around the production scheduler: workers from profiles, arrivals, checkers."""
