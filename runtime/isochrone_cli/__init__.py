"""The command line, and local mode: the same manifests on one machine without a cluster."""
