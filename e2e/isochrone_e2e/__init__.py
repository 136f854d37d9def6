"""What the end-to-end tests share: the product installed in a cluster, files for it, load on it.

Called by the tests of this folder and by `bench/cluster_operator.py`. Everything goes through kubectl and
helm, as a person's hands would, or over HTTP, as a client's requests do.
"""
