"""Problem in, plan out. Pure and deterministic; the solver lives in one module, ``exact``."""
