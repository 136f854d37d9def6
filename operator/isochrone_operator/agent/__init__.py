"""The agent beside a gateway: the only container of that pod that speaks to the API server.

``python -m isochrone_operator.agent`` holds the cell's Lease, writes files for the gateway, and
reports what the gateway observes. It imports neither kopf nor the Kubernetes client.
"""
