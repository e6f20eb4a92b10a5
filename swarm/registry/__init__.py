"""The registry: metadata behind one port, blobs as files, and the service that commits manifests."""
