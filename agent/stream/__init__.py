"""Live points over WebSocket: protocol, subscriptions, transports."""
