"""The operator: observes the cluster, decides in one pure function, and carries the decision out."""
