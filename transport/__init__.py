"""An encrypted channel that carries opaque messages between the nodes of one machine. Knows nothing of ftvm."""
