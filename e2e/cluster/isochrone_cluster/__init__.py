"""A real Kubernetes on one machine, for the end-to-end tests and for `make cluster`.

One Go executable holds etcd, the control plane, kubelet, kube-proxy, CoreDNS and Karpenter; containerd
and runc are Debian's. Two nodes live in network and mount namespaces of their own, so that their
processes' end is the end of all that they made. ``cluster.Cluster`` is the way in; nothing here is
imported by the product.
"""
