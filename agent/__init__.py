"""The process and every edge: collectors, listeners, HTTP, WebSocket, command line."""
