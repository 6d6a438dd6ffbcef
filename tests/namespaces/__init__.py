"""Hosts that do not exist: network namespaces of one computer, with a switch between them that can be cut."""

from tests.namespaces.network import Host, Network, open_network, require_namespaces

__all__ = ["Host", "Network", "open_network", "require_namespaces"]
