"""Images, networks, fitting and versions; knows nothing of Label Studio; backend may import it."""
