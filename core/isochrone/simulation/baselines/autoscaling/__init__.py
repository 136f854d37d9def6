"""Other systems' autoscalers as controllers for ``simulation.scaling``: how many of what, and when.

Made by benchmarks. Each decides by its published rule; how requests are then scheduled, batched and
refused is the same for all of them and for ours, by the production scheduler: a comparison of what they
rent, not of how they queue, and kinder to them than their own data planes.
"""
