"""A look at each link from a machine to a working scheduler; changes nothing on the cluster."""
