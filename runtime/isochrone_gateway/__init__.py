"""The gateway: Open Inference Protocol v2 in front, the scheduler inside, executors behind."""
