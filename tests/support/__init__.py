"""What the integration tests and deploy/local/up share: private servers, stand-ins, clients.

Nothing here needs more than Debian's packages (deploy/packages.txt). Every server listens on loopback only,
keeps its files in a folder that the caller names, and is stopped by its process id.
"""
