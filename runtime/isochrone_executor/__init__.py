"""The executor: honors action windows on one accelerator, and decides nothing."""
