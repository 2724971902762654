"""Secure aggregation: the server learns the sum of the sites' updates and no update of a single one.

Pure functions and plain data, no input or output: what a site does with them stands in `client/sitting.py` and
`client/secure.py`, what the server does in `server/secure/`. docs/secure-aggregation.md has the protocol, what it holds
against and what it does not.

Source: Bonawitz et al. 2017 (CCS, "Practical Secure Aggregation for Privacy-Preserving Machine Learning"): pairwise
masks that cancel, a mask of each site's own, Shamir shares of what makes both, and a site reveals for each peer only
one of the two. Bell et al. 2020 (CCS, arXiv 2020/704, "SecAgg+"): masks and shares among the neighbours of a random
k-regular graph, not among all. Departures: one sitting is never used twice, a site's own share counts, and the digest
of a site's own mask goes ahead, so that a false share is found and not added up.
"""
